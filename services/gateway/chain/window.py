"""Windows: the recent records of each stream, in memory, bounded per stream and in total. Pure.

What is kept is what clients are sent. When about 256 KiB of records have come, or somebody wants
them, their frames are joined once, and the records' own copies are given up for their places in
it. So a window takes no more memory for being sent from, and everyone who catches up shares the
same bytes: of clients that come back together none costs framing.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

from services.common.stream import Position
from services.gateway.chain.stream_record import StreamRecord
from services.gateway.websocket.rfc6455.frames import text_frame

# What an record costs beside its payload, roughly (object, position, list slot, frame).
_OVERHEAD = 250
# Of one segment, and the least number of them in a full window.
_SEGMENT_BYTES = 256 * 1024
_SEGMENTS = 16
# A segment that somebody wants is sealed early when it has this share of that.
_EARLY = 8


class Budget:
    """The bytes all windows together may hold."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.used = 0
        self._windows: dict[Window, None] = {}

    def join(self, window: Window) -> None:
        self._windows[window] = None

    def leave(self, window: Window) -> None:
        self._windows.pop(window, None)

    def enforce(self) -> None:
        """Make room by dropping the oldest records of whichever window is largest."""
        while self.used > self.max_bytes:
            largest = max(self._windows, key=lambda window: window.size)
            if not largest.drop_oldest():
                return


class Run(NamedTuple):
    """Records that follow each other, at least one."""

    records: Sequence[StreamRecord]
    chained: int  # how many of them advance `seq`
    # What a client is sent for all of them, whatever its depth; None: not made yet.
    frames: bytes | None


class _Segment:
    """A run that grows until it is sealed. One with a record that is not plain holds only that."""

    __slots__ = ("chained", "cost", "ends", "frames", "records", "sealed")

    def __init__(self) -> None:
        self.records: list[StreamRecord] = []
        self.chained = 0
        self.cost = 0
        self.sealed = False
        self.frames: bytes | None = None
        # Where each record's frame ends in `frames`.
        self.ends = array("I")

    def append(self, record: StreamRecord, cost: int) -> None:
        self.records.append(record)
        self.chained += record.chained
        self.cost += cost

    def seal(self) -> None:
        """Take no more."""
        self.sealed = True
        if not self.records[0].plain:
            # What is sent for a reset depends on the client's depth, and may be megabytes.
            return
        # Ticks and statuses are one message each.
        frames = [text_frame(record.messages()[0]) for record in self.records]
        self.frames = b"".join(frames)
        self.ends.extend(accumulate(map(len, frames)))
        for record, end in zip(self.records, self.ends, strict=True):
            record.keep_in(self.frames, end)

    def after(self, at: int) -> Run:
        """What stands from record `at` on."""
        if at == 0:
            return Run(self.records, self.chained, self.frames)
        rest = self.records[at:]
        chained = len(rest)
        if self.chained < len(self.records):
            chained = sum(record.chained for record in rest)
        frames = None if self.frames is None else self.frames[self.ends[at - 1] :]
        return Run(rest, chained, frames)


class Window:
    """A contiguous run of one stream's records, newest last.

    `start` is the position after which the window holds everything (None: it holds nothing yet).
    """

    def __init__(self, budget: Budget, max_bytes: int) -> None:
        self._budget = budget
        self._max_bytes = max_bytes
        self._segment_bytes = min(_SEGMENT_BYTES, max_bytes // _SEGMENTS)
        self._segments: list[_Segment] = []
        self.size = 0
        self.start: Position | None = None
        budget.join(self)

    def __len__(self) -> int:
        return sum(len(segment.records) for segment in self._segments)

    def __iter__(self) -> Iterator[StreamRecord]:
        for segment in self._segments:
            yield from segment.records

    def restart(self, start: Position | None) -> None:
        """Drop everything and begin after `start`."""
        self._budget.used -= self.size
        self._segments, self.size, self.start = [], 0, start

    def close(self) -> None:
        self.restart(None)
        self._budget.leave(self)

    def append(self, record: StreamRecord) -> None:
        """Take the record that follows the newest one (or `start`)."""
        if self.start is None:
            self.start = record.before
        cost = record.size + _OVERHEAD
        newest = self._segments[-1] if self._segments else None
        if newest is not None and not newest.sealed and not record.plain:
            newest.seal()
        if newest is None or newest.sealed:
            newest = _Segment()
            self._segments.append(newest)
        newest.append(record, cost)
        if newest.cost >= self._segment_bytes or not record.plain:
            newest.seal()
        self.size += cost
        self._budget.used += cost
        while self.size > self._max_bytes and self.drop_oldest():
            pass
        self._budget.enforce()

    def drop_oldest(self) -> bool:
        """Forget the oldest records, some of them together; False when there are none."""
        if not self._segments:
            return False
        oldest = self._segments.pop(0)
        self.start = oldest.records[-1].position
        self.size -= oldest.cost
        self._budget.used -= oldest.cost
        return True

    def covers(self, position: Position) -> bool:
        """Whether all that follows `position` is here."""
        return self.start is not None and position >= self.start

    def run_after(self, position: Position) -> Run | None:
        """The next records after `position`, up to a segment of them; None: there are none."""
        found = bisect_right(
            self._segments, position, key=lambda segment: segment.records[-1].position
        )
        if found == len(self._segments):
            return None
        segment = self._segments[found]
        if not segment.sealed and segment.cost * _EARLY >= self._segment_bytes:
            segment.seal()
        at = bisect_right(segment.records, position, key=_position)
        return segment.after(at)

    def first_after(self, position: Position) -> StreamRecord | None:
        """The first tick or reset after `position`."""
        while (run := self.run_after(position)) is not None:
            for record in run.records:
                if record.chained:
                    return record
            position = run.records[-1].position
        return None


def _position(record: StreamRecord) -> Position:
    return record.position
