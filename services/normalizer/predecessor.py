"""What stands in the tick log before one of its records, as the record itself says. Pure.

Asked after an outage only, so that it costs a record nothing on its way.
"""

from __future__ import annotations

import msgspec

from services.common.stream import Position, Record
from services.common.subjects import PULSE, key_of


class _Chained(msgspec.Struct):
    prev: int | None = None


_decode = msgspec.json.Decoder(_Chained).decode


def predecessor(record: Record) -> Position | None:
    """The tick or reset before a record of the tick log; None for the first of an epoch.

    A status or late trades stand behind the record whose `seq` they have; those between are passed
    over, as one that nobody could read is in no log. Pulses are in no chain.
    """
    epoch, seq, sub = record.position
    if key_of(record.subject).channel == PULSE:
        return None
    before = seq if sub else _decode(record.payload).prev
    return Position(epoch, before) if before else None
