"""When something is due. Pure: fed the time in seconds, then asked."""

from __future__ import annotations

import heapq
from collections.abc import Hashable

# Stores and brokers that fail are asked again after pauses between these bounds, seconds.
RETRY_S = (0.1, 5.0)


class Pacer[K: Hashable]:
    """Lets each item's work start at most once a period, only when it changed, oldest first.

    An item that is changed while its work runs is due again afterwards; work on one item never
    overlaps itself.
    """

    def __init__(self, period_s: float) -> None:
        self._period = period_s
        self._due: dict[K, float] = {}
        # (when, tie breaker, item); entries that no longer agree with _due are skipped.
        self._queue: list[tuple[float, int, K]] = []
        self._pushed = 0
        self._started: dict[K, float] = {}
        self._running: dict[K, bool] = {}

    def changed(self, item: K, now: float, *, at_once: bool = False) -> None:
        """The item has something to write; `at_once` does not wait for the period."""
        if item in self._running:
            self._running[item] = True
            return
        started = self._started.get(item)
        when = now if at_once or started is None else max(now, started + self._period)
        if when < self._due.get(item, float("inf")):
            self._push(item, when)

    def start_due(self, now: float, limit: int) -> list[K]:
        """Up to `limit` items that are due; their work is running from now on."""
        taken: list[K] = []
        while self._queue and len(taken) < limit and self._queue[0][0] <= now:
            when, _, item = heapq.heappop(self._queue)
            if self._due.get(item) != when:
                continue
            del self._due[item]
            self._running[item] = False
            self._started[item] = now
            taken.append(item)
        return taken

    def done(self, item: K, now: float) -> None:
        """The item's work ended well."""
        if self._running.pop(item):
            self.changed(item, now)

    def failed(self, item: K, now: float, delay_s: float) -> None:
        """The item's work has to be done again, after `delay_s`."""
        del self._running[item]
        self._push(item, now + delay_s)

    def drain(self, now: float) -> None:
        """From now on nothing waits for the period; failed items still wait for their delay."""
        self._period = 0.0
        for item, when in list(self._due.items()):
            if when > now:
                self._push(item, now)

    def next_due(self) -> float | None:
        """When `start_due` may give something again; None when nothing waits."""
        while self._queue and self._due.get(self._queue[0][2]) != self._queue[0][0]:
            heapq.heappop(self._queue)
        return self._queue[0][0] if self._queue else None

    @property
    def idle(self) -> bool:
        return not self._due and not self._running

    @property
    def running(self) -> int:
        return len(self._running)

    def _push(self, item: K, when: float) -> None:
        self._due[item] = when
        self._pushed += 1
        heapq.heappush(self._queue, (when, self._pushed, item))


class Concurrency:
    """How many writes at once: as many as the store takes without queueing them.

    A write that waits in the store's queue holds a state that grows old; waiting here it would be
    written with what came meanwhile. So writes that take much longer than the fastest one make the
    limit smaller, and fast ones make it larger again.

    Args:
        most: never more than this.
    """

    # Above this many times the fastest write, and above this many seconds, is queueing.
    _SLOW = 2.0
    _SLOW_S = 0.04
    # The fastest write is forgotten slowly, since a store may become slower for good.
    _FORGET = 1.0002

    def __init__(self, most: int) -> None:
        self._most = most
        self._least = min(2, most)
        self._limit = float(self._least)
        self._fastest: float | None = None

    @property
    def limit(self) -> int:
        return int(self._limit)

    def finished(self, seconds: float) -> None:
        """A write took so long."""
        held = self._fastest
        self._fastest = seconds if held is None else min(seconds, held * self._FORGET)
        if seconds > max(self._SLOW_S, self._SLOW * self._fastest):
            self._limit = max(self._least, self._limit * 0.95)
        else:
            self._limit = min(self._most, self._limit + 1 / self._limit)

    def failed(self) -> None:
        """A write was refused or not answered."""
        self._limit = max(self._least, self._limit * 0.7)
