"""Requests to the venue wait for their turn: a token bucket on the event loop's clock."""

from __future__ import annotations

import asyncio
import time

from services.common.resilience import TokenBucket


class Limiter:
    """Everybody is served in the order they asked.

    Args:
        rate: turns a second.
        burst: turns at once after a pause.
    """

    def __init__(self, rate: float, burst: float) -> None:
        self._burst = burst
        self._bucket = TokenBucket(rate, burst, time.monotonic())

    async def turn(self) -> None:
        """Wait for a turn."""
        delay = self._bucket.reserve(time.monotonic())
        if delay > 0:
            await asyncio.sleep(delay)

    async def spare_turn(self) -> None:
        """Wait until nobody who comes next has to wait because of this turn."""
        while (delay := self._bucket.acquire(time.monotonic(), spare=self._burst / 2)) > 0:  # noqa: ASYNC110 - time itself is waited for
            await asyncio.sleep(delay)

    @property
    def backlog_s(self) -> float:
        """Seconds that somebody who asks for a turn now would wait."""
        return self._bucket.wait(time.monotonic())

    def exhausted(self) -> None:
        """The other side refused for too many requests."""
        self._bucket.drain(time.monotonic())
