"""From raw records to the tick log's records: a pure function of the raw log.

`Normalizer` is fed raw records and answers what has to be published. It holds one position for
each stream and otherwise nothing, reads no clock and draws no number, so that the same raw log
gives the same bytes, whoever computes them and however often.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from services.common.sharding import shard_of
from services.common.stream import Position, Record
from services.common.subjects import PULSE, StreamKey, key_of, tick_subject
from services.common.wire import (
    LAST_RECEIVED,
    RECORD_VERSION,
    UNCHAINED,
    GapBody,
    Late,
    LateBody,
    LogRecord,
    Missed,
    Pulse,
    PulseBody,
    RawRecord,
    Reset,
    ResyncBody,
    Status,
    StatusBody,
    Tick,
    encode,
)
from services.normalizer.chain import RAW_LOG_BREAK, Chain, Link
from services.normalizer.fast_path import FastPath
from services.normalizer.stand_in import instead_of, itself, of_break
from services.normalizer.venues import VENUES
from services.normalizer.venues.mapping import Unmappable, VenueMapper, decode

INVALID_MESSAGE = "invalid_message"


class RepairRequest(NamedTuple):
    """What readers of a stream go without, and why; the writer of the raw log can make it good."""

    cause: str
    missed: Missed


class Normalized(NamedTuple):
    """What one raw record came to: at most a break and itself, what of it was refused or lost."""

    records: tuple[Record, ...]
    refused: tuple[Unmappable, ...] = ()
    asks: tuple[RepairRequest, ...] = ()


class Normalizer:
    """Feed it each stream's raw records in order; see the module's docstring.

    `fast_path` may be asked first for each record: what it takes needs nothing else.
    """

    def __init__(self, shard_count: int, venues: Mapping[str, VenueMapper] = VENUES) -> None:
        self.chain = Chain()
        self.fast_path = FastPath(self.chain, shard_count, venues)
        self._shard_count = shard_count
        self._venues = venues

    def forget(self) -> None:
        """Hold nothing of any stream, as if it had just begun."""
        self.chain.forget()
        self.fast_path.forget()

    def subject(self, key: StreamKey) -> str:
        """Where the stream's ticks are published."""
        return tick_subject(shard_of(key.product, self._shard_count), key)

    def read(self, subject: str, position: Position, payload: bytes) -> RawRecord:
        """Decode a raw record and check that it is what its envelope says.

        Raises:
            Unmappable: it is not a raw record, or it contradicts its subject or position.
        """
        raw = decode(RawRecord, payload)
        if raw.v != RECORD_VERSION:
            raise Unmappable("unknown_version", str(raw.v))
        if (raw.venue, raw.channel, raw.product) != key_of(subject):
            raise Unmappable("wrong_subject", f"{raw.venue}:{raw.channel}:{raw.product}")
        if (raw.epoch, raw.seq, raw.sub) != position:
            raise Unmappable("wrong_position", f"{(raw.epoch, raw.seq, raw.sub)}")
        if not 0 <= raw.ts_recv <= LAST_RECEIVED:
            raise Unmappable("bad_field", f"ts_recv {str(raw.ts_recv)[:40]}")
        if (raw.kind == "pulse") is not (raw.channel == PULSE):
            raise Unmappable("unexpected_type", f"{raw.kind} on {raw.channel}")
        if raw.kind in UNCHAINED:
            if raw.sub < 1:
                raise Unmappable("bad_position", f"a {raw.kind} with sub {raw.sub}")
        elif raw.sub != 0 or raw.seq < 1:
            raise Unmappable("bad_position", f"seq {raw.seq}, sub {raw.sub}")
        return raw

    def pulses(self, key: StreamKey, raw: RawRecord, shards: Collection[int]) -> list[Record]:
        """An ingestor's pulse, for the logs of those of `shards` that have products in it.

        It is in no chain: one that comes again is written again, or refused by the log.

        Raises:
            Unmappable: its body is none.
        """
        products: dict[int, list[str]] = {}
        for product in decode(PulseBody, raw.body).products:
            products.setdefault(shard_of(product, self._shard_count), []).append(product)
        position = Position(raw.epoch, raw.seq, raw.sub)
        return [
            Record(
                tick_subject(shard, key),
                encode(Pulse(RECORD_VERSION, key.venue, raw.line, shard, raw.ts_recv, found)),
                position,
            )
            for shard, found in sorted(products.items())
            if shard in shards
        ]

    def normalize(self, key: StreamKey, raw: RawRecord) -> Normalized:
        """What `raw`, which is no duplicate, comes to.

        What is not understood has something stand in for it at its own position, so that the chain
        goes on and no reader drops a state for which nothing comes; see `stand_in`.
        """
        link = self.chain.link(key, raw)
        shard = shard_of(key.product, self._shard_count)
        refused: tuple[Unmappable, ...] = ()
        asks: list[RepairRequest] = []
        try:
            record, refused = self._map(key, shard, raw, link)
        except Unmappable as error:
            refused = (error,)
            if raw.kind in UNCHAINED:
                # Nothing is missing without it.
                record = None
            else:
                record = instead_of(key, shard, raw, link, INVALID_MESSAGE, itself(raw))
                asks.append(RepairRequest(INVALID_MESSAGE, itself(raw)))
        if raw.kind == "gap" and isinstance(record, Tick):
            asks.append(RepairRequest("gap", itself(raw)))
        subject = tick_subject(shard, key)
        records = []
        if link.lost is not None:
            lost = of_break(key, shard, raw, link.lost)
            records.append(Record(subject, encode(lost), Position(lost.epoch, lost.seq)))
            asks.insert(0, RepairRequest(RAW_LOG_BREAK, link.lost.missed))
        if record is not None:
            position = Position(raw.epoch, raw.seq, raw.sub)
            records.append(Record(subject, encode(record), position))
        return Normalized(tuple(records), refused, tuple(asks))

    def _map(
        self, key: StreamKey, shard: int, raw: RawRecord, link: Link
    ) -> tuple[LogRecord, tuple[Unmappable, ...]]:
        venue = self._venues.get(key.venue)
        if venue is None:
            raise Unmappable("unknown_venue", key.venue)
        body = bytes(raw.body)
        begin = (RECORD_VERSION, *key, shard, raw.epoch, raw.seq)
        received = raw.ts_recv
        if raw.kind == "frame":
            ts_event, venue_seq, fields, refused = venue.fields(key, body, received, raw.changes)
            prev_sub = raw.prev_sub or 0
            tick = Tick(*begin, link.prev, venue_seq, ts_event, received, fields, prev_sub)
            return tick, refused
        if raw.kind == "status":
            told = decode(StatusBody, body)
            return Status(*begin, raw.sub, told.state, told.since, told.evidence, received), ()
        if raw.kind == "late":
            return _late(key, shard, raw, decode(LateBody, body), venue)
        # There is no reset without the state that follows it.
        missed: Missed | None
        if raw.kind == "gap":
            gap = decode(GapBody, body)
            if gap.message is None:
                return instead_of(key, shard, raw, link, gap.cause, gap.missed), ()
            cause, missed, message = gap.cause, gap.missed, gap.message
        else:
            resync = decode(ResyncBody, body)
            if resync.repair != "snapshot":
                raise Unmappable("bad_field", f"a resync with repair {resync.repair!r}")
            cause, missed, message = resync.cause, resync.missed, resync.message
        ts_event, state, refused = venue.state(key, bytes(message), received)
        reset = Reset.at(
            key,
            shard,
            (raw.epoch, raw.seq),
            link.prev,
            (ts_event, received),
            cause,
            state,
            missed=missed,
            prev_sub=raw.prev_sub or 0,
        )
        return reset, refused


def _late(
    key: StreamKey, shard: int, raw: RawRecord, late: LateBody, venue: VenueMapper
) -> tuple[Late, tuple[Unmappable, ...]]:
    """A trade that cannot be read is left out, and told by what then is missing in the record."""
    begin = (RECORD_VERSION, *key, shard, raw.epoch)
    received = raw.ts_recv
    ticks: list[Tick] = []
    refused: list[Unmappable] = []
    for message in late.messages:
        try:
            ts_event, venue_seq, fields, _ = venue.fields(key, bytes(message), received)
        except Unmappable as error:
            refused.append(error)
            continue
        if fields.last_trade is None:
            refused.append(Unmappable("bad_field", "late, and no trade"))
            continue
        seq = fields.last_trade.trade_id
        ticks.append(Tick(*begin, seq, seq - 1, venue_seq, ts_event, received, fields))
    told = (late.missed, ticks, late.open, late.lost, late.reason)
    return Late(*begin, raw.seq, raw.sub, *told, received), tuple(refused)
