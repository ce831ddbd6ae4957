"""Reading back what a log has of records that nobody acknowledged, or that it may have lost.

That a log holds a newer record of the subject does not show that it holds this one: a change of
leader can lose a batch of which the next is stored. So each record is looked for at its own
position, and what is concluded about it is one of four fates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import NamedTuple

from services.common.stream.nats.streams import LogState
from services.common.stream.records import Position

# How far behind a subject's newest record the look begins, in records of the log.
_SPAN = 4096
_WIDER = 8
_PAGE = 1000


class Fate(Enum):
    """What became of a record.

    STORED: it was read back. MISSING: neither it nor anything newer of its subject is there, so it
    can be stored in its turn. LOST: it is not there and something newer is, so it can only be
    stored out of turn, which is never done. EXPIRED: what the log still holds begins behind it;
    had it been stored, it would be gone by now.
    """

    STORED = "stored"
    MISSING = "missing"
    LOST = "lost"
    EXPIRED = "expired"


class ReadBack(NamedTuple):
    """What a log holds of a subject. Pure.

    Attributes:
        found: the records read, with the log's sequence of each.
        newest: the subject's newest record, None without any.
        floor: everything from here on was read; None where nothing ever went from the log's front.
    """

    found: Mapping[Position, int]
    newest: Position | None
    floor: Position | None

    def fate(self, position: Position) -> Fate:
        if position in self.found:
            return Fate.STORED
        if self.newest is None or self.newest < position:
            return Fate.MISSING
        if self.floor is not None and position < self.floor:
            return Fate.EXPIRED
        return Fate.LOST


async def read_back(state: LogState, subject: str, wanted: Sequence[Position]) -> ReadBack:
    """Look for `wanted` (ascending, not empty) in a log whose state was just asked for.

    Raises:
        BrokerUnavailable: the server does not answer.
    """
    newest = await state.last_of(subject)
    if newest is None:
        return ReadBack({}, None, None)
    found = {newest.position: newest.seq}
    if newest.position <= wanted[0]:
        return ReadBack(found, newest.position, newest.position)
    span = _SPAN
    while (start := newest.seq - span) > state.first:
        begin = await state.next(subject, start)
        if begin is None or begin.position <= wanted[0]:
            break
        span *= _WIDER
    floor: Position | None = None
    after = max(start, state.first) - 1
    while True:
        records, pending = await state.page(subject, after, _PAGE)
        found |= {record.position: record.seq for record in records}
        if records and floor is None:
            floor = records[0].position
        if not records or pending == 0 or records[-1].position >= wanted[-1]:
            break
        after = records[-1].seq
    if start <= state.first <= 1:
        floor = None
    elif floor is None:
        floor = newest.position
    return ReadBack(found, newest.position, floor)
