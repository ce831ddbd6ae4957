"""What stands in the raw log before one of its records, as the record itself says. Pure.

Asked after an outage only, so that it costs a record nothing on its way.
"""

from __future__ import annotations

from services.common.stream import Position, Record
from services.common.subjects import is_pulse
from services.common.wire import UNCHAINED, decode_raw


def predecessor(record: Record) -> Position | None:
    """The record before, of whichever line; None for the first of an epoch, and for a pulse."""
    if is_pulse(record.subject):
        return None
    raw = decode_raw(record.payload)
    seq, sub = raw.prev or 0, raw.prev_sub or 0
    if raw.kind in UNCHAINED:
        seq, sub = raw.seq, raw.sub - 1
    return Position(raw.epoch, seq, sub) if (seq, sub) > (0, 0) else None
