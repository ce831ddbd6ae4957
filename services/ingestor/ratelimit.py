"""A token bucket that hands out turns: everybody is served in the order they asked. Pure core."""

from __future__ import annotations

import asyncio


class TokenBucket:
    """Lazily filled with `rate` tokens a second, at most `burst` of them.

    `reserve` takes a token now and says how long the caller must wait before using it, so a queue
    forms by itself and nobody overtakes.
    """

    def __init__(self, rate: float, burst: float) -> None:
        self.rate = rate
        self.burst = burst
        self._tokens = burst
        self._at: float | None = None

    def reserve(self, now: float) -> float:
        """Take one token; seconds until it may be used (0 when at once)."""
        if self._at is not None:
            self._tokens = min(self.burst, self._tokens + (now - self._at) * self.rate)
        self._at = now
        self._tokens -= 1.0
        return max(0.0, -self._tokens / self.rate)

    def spare(self, now: float, kept: float) -> float:
        """Seconds until a token can be taken and `kept` are left; 0: it was taken now."""
        if self._at is not None:
            self._tokens = min(self.burst, self._tokens + (now - self._at) * self.rate)
        self._at = now
        lacking = kept + 1.0 - self._tokens
        if lacking > 0:
            return lacking / self.rate
        self._tokens -= 1.0
        return 0.0

    def backlog(self, now: float) -> float:
        """Seconds that a token asked for now would have to be waited for."""
        if self._at is None:
            return 0.0
        tokens = min(self.burst, self._tokens + (now - self._at) * self.rate)
        return max(0.0, (1.0 - tokens) / self.rate)

    def drain(self, now: float) -> None:
        """The other side says the bucket is empty (HTTP 429): believe it."""
        self.reserve(now)
        self._tokens = min(self._tokens, 0.0)


class Limiter:
    """A `TokenBucket` on the event loop's clock."""

    def __init__(self, rate: float, burst: float) -> None:
        self._bucket = TokenBucket(rate, burst)

    async def turn(self) -> None:
        """Wait for a turn."""
        delay = self._bucket.reserve(asyncio.get_running_loop().time())
        if delay > 0:
            await asyncio.sleep(delay)

    async def spare_turn(self) -> None:
        """Wait until nobody who comes next has to wait because of this turn."""
        clock = asyncio.get_running_loop().time
        while (delay := self._bucket.spare(clock(), self._bucket.burst / 2)) > 0:  # noqa: ASYNC110 - time itself is waited for
            await asyncio.sleep(delay)

    @property
    def backlog_s(self) -> float:
        """Seconds that somebody who asks for a turn now would wait."""
        return self._bucket.backlog(asyncio.get_running_loop().time())

    def exhausted(self) -> None:
        """The other side refused for too many requests."""
        self._bucket.drain(asyncio.get_running_loop().time())
