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
    Fields,
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
    decode_record,
    encode,
)
from services.normalizer.chain import CONTIGUOUS, RAW_LOG_BREAK, Break, Chain, ChainVerdict, Link
from services.normalizer.fast_path import FastPath
from services.normalizer.venues import VENUES, Unmappable, VenueMapper
from services.normalizer.venues.mapping import decode

INVALID_MESSAGE = "invalid_message"
RECORD_TOO_LARGE = "record_too_large"

_raw = msgspec.json.Decoder(RawRecord)
_resync = msgspec.json.Decoder(ResyncBody)
_gap = msgspec.json.Decoder(GapBody)
_status = msgspec.json.Decoder(StatusBody)
_late = msgspec.json.Decoder(LateBody)
_pulse = msgspec.json.Decoder(PulseBody)


class Out(NamedTuple):
    """A record for the tick log."""

    subject: str
    position: Position
    payload: bytes


class Ask(NamedTuple):
    """What readers of a stream go without, and why; the writer of the raw log can make it good."""

    cause: str
    missed: Missed


class Output(NamedTuple):
    """What one raw record came to: at most a break and itself, what of it was refused or lost."""

    records: tuple[Out, ...]
    refused: tuple[Unmappable, ...] = ()
    asks: tuple[Ask, ...] = ()


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

    def pulses(self, key: StreamKey, raw: RawRecord, shards: Collection[int]) -> list[Out]:
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
            Out(
                tick_subject(shard, key),
                position,
                encode(Pulse(RECORD_VERSION, key.venue, raw.line, shard, raw.ts_recv, found)),
            )
            for shard, found in sorted(products.items())
            if shard in shards
        ]

    def judge(self, key: StreamKey, raw: RawRecord) -> ChainVerdict:
        return self.chain.judge(key, raw)

    def take(self, key: StreamKey, raw: RawRecord) -> Output:
        """What `raw`, which is no duplicate, comes to.

        What is not understood has something stand in for it at its own position, so that the chain
        goes on and no reader drops a state for which nothing comes; see `_stand_in`.
        """
        link = self.chain.link(key, raw)
        shard = shard_of(key.product, self._shard_count)
        refused: tuple[Unmappable, ...] = ()
        asks: list[Ask] = []
        try:
            record, refused = self._map(key, shard, raw, link)
        except Unmappable as error:
            refused = (error,)
            if raw.kind in UNCHAINED:
                # Nothing is missing without it.
                record = None
            else:
                record = _instead_of(key, shard, raw, link, INVALID_MESSAGE, _itself(raw))
                asks.append(Ask(INVALID_MESSAGE, _itself(raw)))
        if raw.kind == "gap" and isinstance(record, Tick):
            asks.append(Ask("gap", _itself(raw)))
        subject = tick_subject(shard, key)
        records = []
        if link.lost is not None:
            lost = _of_break(key, shard, raw, link.lost)
            records.append(Out(subject, Position(lost.epoch, lost.seq), encode(lost)))
            asks.insert(0, Ask(RAW_LOG_BREAK, link.lost.missed))
        if record is not None:
            records.append(Out(subject, Position(raw.epoch, raw.seq, raw.sub), encode(record)))
        return Output(tuple(records), refused, tuple(asks))

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
            return _status_of(key, shard, raw, status), ()
        if raw.kind == "late":
            return _late_of(key, shard, raw, decode(_late, body), venue)
        if raw.kind == "gap":
            gap = decode(_gap, body)
            if gap.message is None:
                return _instead_of(key, shard, raw, link, gap.cause, gap.missed), ()
            ts_event, state, refused = venue.state(key, bytes(gap.message), raw.ts_recv)
            reset = _reset_of(
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
        reset = _reset_of(
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


def too_large(payload: bytes) -> bytes:
    """What is written where the log refuses a record for its size."""
    record = decode_record(payload)
    if isinstance(record, Status):
        return encode(msgspec.structs.replace(record, evidence=RECORD_TOO_LARGE))
    if isinstance(record, Late):
        return encode(msgspec.structs.replace(record, reason=RECORD_TOO_LARGE, ticks=[]))
    return encode(
        _stand_in(
            StreamKey(record.venue, record.channel, record.product),
            record.shard,
            Position(record.epoch, record.seq),
            record.prev,
            record.ts_ingest,
            RECORD_TOO_LARGE,
            missed_by(record),
            record.prev_sub,
        )
    )


def missed_by(record: Tick | Reset) -> Missed:
    """What whoever does not get the record goes without."""
    if isinstance(record, Reset) and record.missed is not None:
        return record.missed
    return Missed(record.seq, record.seq, 1 if record.channel in CONTIGUOUS else None)


def _stand_in(
    key: StreamKey,
    shard: int,
    at: Position,
    prev: int | None,
    ts: int,
    cause: str,
    missed: Missed,
    prev_sub: int = 0,
) -> Tick | Reset:
    """What stands where a record should: it costs no reader a state that does not come back.

    Of trades it is a reset, which names what is missing, with the state "none known since". A
    ticker and a book are better kept as they were, so there it is a tick that says nothing; that
    something is missing is told to the writer of the raw log, who sends the whole state at once.
    """
    if key.channel == "trades":
        return Reset(
            v=RECORD_VERSION,
            venue=key.venue,
            channel=key.channel,
            product=key.product,
            shard=shard,
            epoch=at.epoch,
            seq=at.seq,
            prev=prev,
            ts_event=ts,
            ts_ingest=ts,
            cause=cause,
            repair="snapshot",
            missed=missed,
            state=_NO_TRADES,
            prev_sub=prev_sub,
        )
    book = key.channel == "book"
    return Tick(
        v=RECORD_VERSION,
        venue=key.venue,
        channel=key.channel,
        product=key.product,
        shard=shard,
        epoch=at.epoch,
        seq=at.seq,
        # A book's very first record is its base. One that is not there is no empty book: 0 says
        # that something stands before, as in every book that is joined in the middle.
        prev=0 if book and prev is None else prev,
        venue_seq=None,
        ts_event=ts,
        ts_ingest=ts,
        fields=Fields(changes=[]) if book else Fields(),
        prev_sub=prev_sub,
    )


_NO_TRADES = msgspec.Raw(b'{"trades":[]}')


def _instead_of(
    key: StreamKey, shard: int, raw: RawRecord, link: Link, cause: str, missed: Missed
) -> Tick | Reset:
    at = Position(raw.epoch, raw.seq)
    return _stand_in(key, shard, at, link.prev, raw.ts_recv, cause, missed, raw.prev_sub or 0)


def _of_break(key: StreamKey, shard: int, raw: RawRecord, lost: Break) -> Tick | Reset:
    """Its times are those of the record that brought the break to light."""
    at = Position(lost.epoch, lost.seq)
    return _stand_in(key, shard, at, lost.prev, raw.ts_recv, RAW_LOG_BREAK, lost.missed)


def _itself(raw: RawRecord) -> Missed:
    return Missed(raw.seq, raw.seq, 1 if raw.channel in CONTIGUOUS else None)


def _status_of(key: StreamKey, shard: int, raw: RawRecord, status: StatusBody) -> Status:
    return Status(
        v=RECORD_VERSION,
        venue=key.venue,
        channel=key.channel,
        product=key.product,
        shard=shard,
        epoch=raw.epoch,
        seq=raw.seq,
        sub=raw.sub,
        state=status.state,
        since=status.since,
        evidence=status.evidence,
        ts_ingest=raw.ts_recv,
    )


def _late_of(
    key: StreamKey, shard: int, raw: RawRecord, late: LateBody, venue: VenueMapper
) -> tuple[Late, tuple[Unmappable, ...]]:
    """A trade that cannot be read is left out, and told by what then is missing in the record."""
    ticks: list[Tick] = []
    refused: list[Unmappable] = []
    for message in late.messages:
        try:
            ts_event, venue_seq, fields, _ = venue.fields(key, bytes(message), raw.ts_recv)
        except Unmappable as error:
            refused.append(error)
            continue
        if fields.last_trade is None:
            refused.append(Unmappable("bad_field", "late, and no trade"))
            continue
        seq = fields.last_trade.trade_id
        ticks.append(
            Tick(
                v=RECORD_VERSION,
                venue=key.venue,
                channel=key.channel,
                product=key.product,
                shard=shard,
                epoch=raw.epoch,
                seq=seq,
                prev=seq - 1,
                venue_seq=venue_seq,
                ts_event=ts_event,
                ts_ingest=raw.ts_recv,
                fields=fields,
            )
        )
    record = Late(
        v=RECORD_VERSION,
        venue=key.venue,
        channel=key.channel,
        product=key.product,
        shard=shard,
        epoch=raw.epoch,
        seq=raw.seq,
        sub=raw.sub,
        missed=late.missed,
        ticks=ticks,
        open=late.open,
        lost=late.lost,
        reason=late.reason,
        ts_ingest=raw.ts_recv,
    )
    return record, tuple(refused)


def _reset_of(
    key: StreamKey,
    shard: int,
    raw: RawRecord,
    link: Link,
    cause: str,
    *,
    missed: Missed | None,
    state: msgspec.Raw,
    ts_event: int,
) -> Reset:
    """A reset at the raw record's place. There is none without the state that follows it."""
    return Reset(
        v=RECORD_VERSION,
        venue=key.venue,
        channel=key.channel,
        product=key.product,
        shard=shard,
        epoch=raw.epoch,
        seq=raw.seq,
        prev=link.prev,
        ts_event=ts_event,
        ts_ingest=raw.ts_recv,
        cause=cause,
        repair="snapshot",
        missed=missed,
        state=state,
        prev_sub=raw.prev_sub or 0,
    )
