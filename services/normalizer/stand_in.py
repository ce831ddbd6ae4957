"""What the tick log gets for a record that is not understood, lost or too large. Pure."""

from __future__ import annotations

import msgspec

from services.common.stream import Position
from services.common.subjects import StreamKey
from services.common.wire import (
    RECORD_VERSION,
    Fields,
    Late,
    Missed,
    RawRecord,
    Reset,
    Status,
    Tick,
    decode_record,
    encode,
)
from services.normalizer.chain import CONTIGUOUS, RAW_LOG_BREAK, Break, Link

RECORD_TOO_LARGE = "record_too_large"


def too_large(payload: bytes) -> bytes:
    """What is written where the log refuses a record for its size."""
    record = decode_record(payload)
    if isinstance(record, Status):
        return encode(msgspec.structs.replace(record, evidence=RECORD_TOO_LARGE))
    if isinstance(record, Late):
        return encode(msgspec.structs.replace(record, reason=RECORD_TOO_LARGE, ticks=[]))
    return encode(
        stand_in(
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
    return itself(record)


def itself(record: RawRecord | Tick | Reset) -> Missed:
    """The record alone, as what is missing."""
    return Missed(record.seq, record.seq, 1 if record.channel in CONTIGUOUS else None)


def stand_in(
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
        place, times = (at.epoch, at.seq), (ts, ts)
        return Reset.at(
            key, shard, place, prev, times, cause, _NO_TRADES, missed=missed, prev_sub=prev_sub
        )
    book = key.channel == "book"
    # A book's very first record is its base. One that is not there is no empty book: 0 says that
    # something stands before, as in every book that is joined in the middle.
    before = 0 if book and prev is None else prev
    fields = Fields(changes=[]) if book else Fields()
    begin = (RECORD_VERSION, *key, shard, at.epoch, at.seq)
    return Tick(*begin, before, None, ts, ts, fields, prev_sub)


_NO_TRADES = msgspec.Raw(b'{"trades":[]}')


def instead_of(
    key: StreamKey, shard: int, raw: RawRecord, link: Link, cause: str, missed: Missed
) -> Tick | Reset:
    at = Position(raw.epoch, raw.seq)
    return stand_in(key, shard, at, link.prev, raw.ts_recv, cause, missed, raw.prev_sub or 0)


def of_break(key: StreamKey, shard: int, raw: RawRecord, lost: Break) -> Tick | Reset:
    """Its times are those of the record that brought the break to light."""
    at = Position(lost.epoch, lost.seq)
    return stand_in(key, shard, at, lost.prev, raw.ts_recv, RAW_LOG_BREAK, lost.missed)
