"""Whether a live subscription has seen all that its log stored. Pure.

A subscriber is not told a record's number in the log, and between two servers a message may be lost
while both ends' own connections stand. The next record of that subject shows it; on a quiet one
that may take long. So what is seen is counted, and now and then the log's newest record is looked
up: its number in the log and its place in the count go up together. Where the first has gone ahead
since the last look, something was not seen.
"""

from __future__ import annotations

from collections import deque

from services.common.stream.records import Position

# As many as may come while the newest record is looked up.
_REMEMBERED = 4096


class LossCheck:
    """Counts records that are new to a subscriber."""

    def __init__(self, remembered: int = _REMEMBERED) -> None:
        self._remembered = remembered
        self._count = 0
        self._places: dict[tuple[str, Position], int] = {}
        self._order: deque[tuple[str, Position]] = deque()
        # By how much the log's numbers are ahead of the count.
        self._ahead: int | None = None

    def start(self, sequence: int) -> None:
        """The log's newest record before anything that was counted is its number `sequence`."""
        self._ahead = sequence

    def saw(self, subject: str, position: Position) -> None:
        """Count a record; each once, in the order in which they come."""
        self._count += 1
        record = (subject, position)
        self._places[record] = self._count
        self._order.append(record)
        if len(self._order) > self._remembered:
            del self._places[self._order.popleft()]

    def missed(self, subject: str, position: Position, sequence: int) -> bool | None:
        """Whether something stored since the last call, before this record, was not seen.

        `sequence` is the record's number in the log. None: it was not seen itself, or long ago.
        """
        place = self._places.get((subject, position))
        if place is None:
            return None
        before, self._ahead = self._ahead, sequence - place
        return before is not None and self._ahead > before
