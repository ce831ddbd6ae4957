"""A queue of calls of which so many are made in one turn of the event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable


class TurnQueue:
    """Makes calls in order, a bounded number of them in each turn of the event loop.

    Args:
        most: calls in one turn.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: deque[Callable[[], None]] = deque()
        self._called = 0
        self._scheduled = False

    def add(self, call: Callable[[], None]) -> None:
        """Make the call now if this turn has room for it; else in a later turn."""
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._next_turn)
        if self._called < self._most and not self._waiting:
            self._called += 1
            call()
        else:
            self._waiting.append(call)

    def _next_turn(self) -> None:
        self._called = 0
        while self._waiting and self._called < self._most:
            self._called += 1
            self._waiting.popleft()()
        self._scheduled = self._called > 0
        if self._scheduled:
            asyncio.get_running_loop().call_soon(self._next_turn)
