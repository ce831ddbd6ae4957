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
    Late,
    LateBody,
    LogRecord,
    Missed,
    Pulse,
    PulseBody,
    RawRecord,
    Repair,
    Reset,
    ResyncBody,
    Status,
    StatusBody,
    Tick,
    decode_record,
    encode,
)
from services.normalizer.chain import CONTIGUOUS, RAW_LOG_BREAK, Break, Chain, Link, Verdict
from services.normalizer.usual import UsualTicks
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


class Output(NamedTuple):
    """What one raw record came to: at most a break and itself, and what of it was refused."""

    records: tuple[Out, ...]
    refused: tuple[Unmappable, ...] = ()


class Normalizer:
    """Feed it each stream's raw records in order; see the module's docstring.

    `usual` may be asked first for each record: what it takes needs nothing else.

    Args:
        shard_count: number of tick logs.
        venues: mappers by venue.
    """

    def __init__(self, shard_count: int, venues: Mapping[str, VenueMapper] = VENUES) -> None:
        self.chain = Chain()
        self.usual = UsualTicks(self.chain, shard_count, venues)
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

    def judge(self, key: StreamKey, raw: RawRecord) -> Verdict:
        return self.chain.judge(key, raw)

    def take(self, key: StreamKey, raw: RawRecord) -> Output:
        """What `raw`, which is no duplicate, comes to.

        What is not understood becomes a reset at its own position: whoever reads the tick log
        learns that something is missing there, and the chain goes on.
        """
        link = self.chain.link(key, raw)
        shard = shard_of(key.product, self._shard_count)
        refused: tuple[Unmappable, ...] = ()
        try:
            record, refused = self._map(key, shard, raw, link)
        except Unmappable as error:
            refused = (error,)
            if raw.kind in UNCHAINED:
                # Nothing is missing without it.
                record = None
            else:
                record = _reset_of(key, shard, raw, link, INVALID_MESSAGE, missed=_itself(raw))
        subject = tick_subject(shard, key)
        records = []
        if link.lost is not None:
            lost = _reset_of_break(key, shard, raw, link.lost)
            records.append(Out(subject, Position(lost.epoch, lost.seq), encode(lost)))
        if record is not None:
            records.append(Out(subject, Position(raw.epoch, raw.seq, raw.sub), encode(record)))
        return Output(tuple(records), refused)

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
                return _reset_of(key, shard, raw, link, gap.cause, missed=gap.missed), ()
            ts_event, state, refused = venue.state(key, bytes(gap.message), raw.ts_recv)
            reset = _reset_of(
                key,
                shard,
                raw,
                link,
                gap.cause,
                "snapshot",
                missed=gap.missed,
                state=state,
                ts_event=ts_event,
            )
            return reset, refused
        resync = decode(_resync, body)
        if resync.repair != "snapshot":
            return (
                _reset_of(key, shard, raw, link, resync.cause, resync.repair, missed=resync.missed),
                (),
            )
        ts_event, state, refused = venue.state(key, bytes(resync.message), raw.ts_recv)
        reset = _reset_of(
            key,
            shard,
            raw,
            link,
            resync.cause,
            "snapshot",
            missed=resync.missed,
            state=state,
            ts_event=ts_event,
        )
        return reset, refused


def too_large(payload: bytes) -> bytes:
    """What is written where the log refuses a record for its size: a reset without a state."""
    record = decode_record(payload)
    if isinstance(record, Status):
        return encode(msgspec.structs.replace(record, evidence=RECORD_TOO_LARGE))
    if isinstance(record, Late):
        return encode(msgspec.structs.replace(record, reason=RECORD_TOO_LARGE, ticks=[]))
    if isinstance(record, Reset):
        return encode(
            msgspec.structs.replace(record, cause=RECORD_TOO_LARGE, repair="none", state=None)
        )
    reset = Reset(
        v=RECORD_VERSION,
        venue=record.venue,
        channel=record.channel,
        product=record.product,
        shard=record.shard,
        epoch=record.epoch,
        seq=record.seq,
        prev=record.prev,
        ts_event=record.ts_event,
        ts_ingest=record.ts_ingest,
        cause=RECORD_TOO_LARGE,
        repair="none",
        missed=Missed(record.seq, record.seq),
    )
    return encode(reset)


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
    repair: Repair = "none",
    *,
    missed: Missed | None = None,
    state: msgspec.Raw | None = None,
    ts_event: int | None = None,
) -> Reset:
    return Reset(
        v=RECORD_VERSION,
        venue=key.venue,
        channel=key.channel,
        product=key.product,
        shard=shard,
        epoch=raw.epoch,
        seq=raw.seq,
        prev=link.prev,
        ts_event=raw.ts_recv if ts_event is None else ts_event,
        ts_ingest=raw.ts_recv,
        cause=cause,
        repair=repair,
        missed=missed,
        state=state,
        prev_sub=raw.prev_sub or 0,
    )


def _reset_of_break(key: StreamKey, shard: int, raw: RawRecord, lost: Break) -> Reset:
    """Its times are those of the record that brought the break to light."""
    return Reset(
        v=RECORD_VERSION,
        venue=key.venue,
        channel=key.channel,
        product=key.product,
        shard=shard,
        epoch=lost.epoch,
        seq=lost.seq,
        prev=lost.prev,
        ts_event=raw.ts_recv,
        ts_ingest=raw.ts_recv,
        cause=RAW_LOG_BREAK,
        repair="none",
        missed=lost.missed,
    )
