"""What taking a delivered record needs of it. Pure."""

from __future__ import annotations

import msgspec

from services.common.errors import InvalidSubject
from services.common.subjects import StreamKey, key_of
from services.common.wire import LAST_RECEIVED, Late, Reset, Status, Tick, decode_record


class _RawHead(msgspec.Struct):
    prev: int | None
    ts_recv: int
    prev_sub: int | None = None


_decode_raw_head = msgspec.json.Decoder(_RawHead).decode


class Delivered(msgspec.Struct):
    """What the record names as its predecessor, when it was received, and what it does.

    `record` is there only where it changes state.
    """

    prev: int | None
    prev_sub: int | None
    ts: int
    record: Tick | Reset | None


def read_tick(payload: bytes) -> Delivered:
    """A record of a tick log; raises what is in UNREADABLE."""
    record = decode_record(payload)
    _check_time(record.ts_ingest)
    if isinstance(record, Status | Late):
        return Delivered(None, None, record.ts_ingest, None)
    return Delivered(record.prev, record.prev_sub, record.ts_ingest, record)


def read_raw(payload: bytes) -> Delivered:
    """A record of the raw log, which is archived only; raises what is in UNREADABLE."""
    head = _decode_raw_head(payload)
    _check_time(head.ts_recv)
    return Delivered(head.prev, head.prev_sub, head.ts_recv, None)


def _check_time(ts: int) -> None:
    """Raise ValidationError unless an archive object can be named by it."""
    if not 0 <= ts <= LAST_RECEIVED:
        raise msgspec.ValidationError(f"a receive time of {str(ts)[:40]} us")


def stream_of(subject: str) -> StreamKey | None:
    """The stream of a subject; None where whoever published on it is none of ours."""
    try:
        return key_of(subject)
    except InvalidSubject:
        return None
