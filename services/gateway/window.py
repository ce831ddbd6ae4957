"""Windows: the recent records of each stream, in memory, bounded per stream and in total. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator

from services.common.stream import Position
from services.gateway.records import Entry

# What an entry costs beside its payload, roughly (object, position, list slot).
_OVERHEAD = 250


class Budget:
    """The bytes all windows together may hold."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.used = 0
        self._windows: set[Window] = set()

    def join(self, window: Window) -> None:
        self._windows.add(window)

    def leave(self, window: Window) -> None:
        self._windows.discard(window)

    def enforce(self) -> None:
        """Make room by dropping the oldest records of whichever window is largest."""
        while self.used > self.max_bytes:
            largest = max(self._windows, key=lambda window: window.size)
            if not largest.drop_oldest():
                return


class Window:
    """A contiguous run of one stream's records, newest last.

    `start` is the position after which the window holds everything (None: it holds nothing yet).
    """

    def __init__(self, budget: Budget, max_bytes: int) -> None:
        self._budget = budget
        self._max_bytes = max_bytes
        self._entries: list[Entry] = []
        self._first = 0
        self.size = 0
        self.start: Position | None = None
        budget.join(self)

    def __len__(self) -> int:
        return len(self._entries) - self._first

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries[self._first :])

    def restart(self, start: Position | None) -> None:
        """Drop everything and begin after `start`."""
        self._budget.used -= self.size
        self._entries, self._first, self.size, self.start = [], 0, 0, start

    def close(self) -> None:
        self.restart(None)
        self._budget.leave(self)

    def append(self, entry: Entry) -> None:
        """Take the record that follows the newest one (or `start`)."""
        if self.start is None:
            self.start = entry.before
        cost = entry.size + _OVERHEAD
        self._entries.append(entry)
        self.size += cost
        self._budget.used += cost
        while self.size > self._max_bytes and self.drop_oldest():
            pass
        self._budget.enforce()

    def drop_oldest(self) -> bool:
        """Forget the oldest record; False when there is none."""
        if self._first == len(self._entries):
            return False
        entry = self._entries[self._first]
        self._first += 1
        self.start = entry.position
        cost = entry.size + _OVERHEAD
        self.size -= cost
        self._budget.used -= cost
        if self._first > 64 and self._first * 2 > len(self._entries):
            del self._entries[: self._first]
            self._first = 0
        return True

    def covers(self, position: Position) -> bool:
        """Whether all that follows `position` is here."""
        return self.start is not None and position >= self.start

    def after(self, position: Position, max_bytes: int) -> list[Entry]:
        """Records after `position`, at least one if there is one, about `max_bytes` of them."""
        at = bisect_right(self._entries, position, lo=self._first, key=lambda e: e.position)
        found: list[Entry] = []
        size = 0
        while at < len(self._entries) and size < max_bytes:
            entry = self._entries[at]
            found.append(entry)
            size += entry.size
            at += 1
        return found
