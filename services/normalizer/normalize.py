"""From raw records to the tick log's records: a pure function of the raw log.

`Normalizer` is fed raw records and answers what has to be published. It holds one position for
each stream and otherwise nothing, reads no clock and draws no number, so that the same raw log
gives the same bytes, whoever computes them and however often.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

import msgspec

from services.common.sharding import shard_of
from services.common.stream import Position
from services.common.subjects import PULSE, StreamKey, key_of, tick_subject
from services.common.wire import (
    RECORD_VERSION,
    UNCHAINED,
    GapBody,
    LateBody,
    LogRecord,
    Missed,
    Pulse,
    PulseBody,
    RawRecord,
    ResyncBody,
    StatusBody,
    Tick,
    encode,
)
from services.normalizer.chain import RAW_LOG_BREAK, Chain, ChainVerdict, Link
from services.normalizer.fast_path import FastPath
from services.normalizer.stand_in import instead_of, itself, of_break
from services.normalizer.tick_records import late_of, reset_of, status_of
from services.normalizer.venues import VENUES, Unmappable, VenueMapper
from services.normalizer.venues.mapping import decode

INVALID_MESSAGE = "invalid_message"

_raw = msgspec.json.Decoder(RawRecord)
_resync = msgspec.json.Decoder(ResyncBody)
_gap = msgspec.json.Decoder(GapBody)
_status = msgspec.json.Decoder(StatusBody)
_late = msgspec.json.Decoder(LateBody)
_pulse = msgspec.json.Decoder(PulseBody)


class TickRecord(NamedTuple):
    """A record for the tick log."""

    subject: str
    position: Position
    payload: bytes


class RepairRequest(NamedTuple):
    """What readers of a stream go without, and why; the writer of the raw log can make it good."""

    cause: str
    missed: Missed


class Normalized(NamedTuple):
    """What one raw record came to: at most a break and itself, what of it was refused or lost."""

    records: tuple[TickRecord, ...]
    refused: tuple[Unmappable, ...] = ()
    asks: tuple[RepairRequest, ...] = ()


class Normalizer:
    """Feed it each stream's raw records in order; see the module's docstring.

    `fast_path` may be asked first for each record: what it takes needs nothing else.

    Args:
        shard_count: number of tick logs.
        venues: mappers by venue.
    """

    def __init__(self, shard_count: int, venues: Mapping[str, VenueMapper] = VENUES) -> None:
        self.chain = Chain()
        self.fast_path = FastPath(self.chain, shard_count, venues)
        self._shard_count = shard_count
        self._venues = venues

    def subject(self, key: StreamKey) -> str:
        """Where the stream's ticks are published."""
        return tick_subject(shard_of(key.product, self._shard_count), key)

    def read(self, subject: str, position: Position, payload: bytes) -> RawRecord:
        """Decode a raw record and check that it is what its envelope says.

        Raises:
            Unmappable: it is not a raw record, or it contradicts its subject or position.
        """
        raw = decode(_raw, payload)
        if raw.v != RECORD_VERSION:
            raise Unmappable("unknown_version", str(raw.v))
        if (raw.venue, raw.channel, raw.product) != key_of(subject):
            raise Unmappable("wrong_subject", f"{raw.venue}:{raw.channel}:{raw.product}")
        if (raw.epoch, raw.seq, raw.sub) != position:
            raise Unmappable("wrong_position", f"{(raw.epoch, raw.seq, raw.sub)}")
        if (raw.kind == "pulse") is not (raw.channel == PULSE):
            raise Unmappable("unexpected_type", f"{raw.kind} on {raw.channel}")
        if raw.kind in UNCHAINED:
            if raw.sub < 1:
                raise Unmappable("bad_position", f"a {raw.kind} with sub {raw.sub}")
        elif raw.sub != 0 or raw.seq < 1:
            raise Unmappable("bad_position", f"seq {raw.seq}, sub {raw.sub}")
        return raw

    def pulses(self, key: StreamKey, raw: RawRecord, shards: Collection[int]) -> list[TickRecord]:
        """An ingestor's pulse, for the logs of those of `shards` that have products in it.

        It is in no chain: one that comes again is written again, or refused by the log.

        Raises:
            Unmappable: its body is none.
        """
        products: dict[int, list[str]] = {}
        for product in decode(_pulse, bytes(raw.body)).products:
            products.setdefault(shard_of(product, self._shard_count), []).append(product)
        position = Position(raw.epoch, raw.seq, raw.sub)
        return [
            TickRecord(
                tick_subject(shard, key),
                position,
                encode(Pulse(RECORD_VERSION, key.venue, raw.line, shard, raw.ts_recv, found)),
            )
            for shard, found in sorted(products.items())
            if shard in shards
        ]

    def judge(self, key: StreamKey, raw: RawRecord) -> ChainVerdict:
        return self.chain.judge(key, raw)

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
            records.append(TickRecord(subject, Position(lost.epoch, lost.seq), encode(lost)))
            asks.insert(0, RepairRequest(RAW_LOG_BREAK, link.lost.missed))
        if record is not None:
            records.append(
                TickRecord(subject, Position(raw.epoch, raw.seq, raw.sub), encode(record))
            )
        return Normalized(tuple(records), refused, tuple(asks))

    def _map(
        self, key: StreamKey, shard: int, raw: RawRecord, link: Link
    ) -> tuple[LogRecord, tuple[Unmappable, ...]]:
        venue = self._venues.get(key.venue)
        if venue is None:
            raise Unmappable("unknown_venue", key.venue)
        body = bytes(raw.body)
        if raw.kind == "frame":
            ts_event, venue_seq, fields, refused = venue.fields(key, body, raw.ts_recv, raw.changes)
            return (
                Tick(
                    RECORD_VERSION,
                    key.venue,
                    key.channel,
                    key.product,
                    shard,
                    raw.epoch,
                    raw.seq,
                    link.prev,
                    venue_seq,
                    ts_event,
                    raw.ts_recv,
                    fields,
                    raw.prev_sub or 0,
                ),
                refused,
            )
        if raw.kind == "status":
            status = decode(_status, body)
            return status_of(key, shard, raw, status), ()
        if raw.kind == "late":
            return late_of(key, shard, raw, decode(_late, body), venue)
        if raw.kind == "gap":
            gap = decode(_gap, body)
            if gap.message is None:
                return instead_of(key, shard, raw, link, gap.cause, gap.missed), ()
            ts_event, state, refused = venue.state(key, bytes(gap.message), raw.ts_recv)
            reset = reset_of(
                key,
                shard,
                raw,
                link,
                gap.cause,
                missed=gap.missed,
                state=state,
                ts_event=ts_event,
            )
            return reset, refused
        resync = decode(_resync, body)
        if resync.repair != "snapshot":
            raise Unmappable("bad_field", f"a resync with repair {resync.repair!r}")
        ts_event, state, refused = venue.state(key, bytes(resync.message), raw.ts_recv)
        reset = reset_of(
            key,
            shard,
            raw,
            link,
            resync.cause,
            missed=resync.missed,
            state=state,
            ts_event=ts_event,
        )
        return reset, refused
