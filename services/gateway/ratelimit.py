"""Token buckets: a rate with a burst. Pure; the caller brings the time."""

from __future__ import annotations


class TokenBucket:
    """Holds at most `burst` tokens and gains `rate` of them a second; may owe as many.

    Args:
        rate: tokens a second, above 0.
        burst: how many may be taken at once after a pause, at least 1.
        now: any clock in seconds that does not go back; the same one for every call.
    """

    __slots__ = ("_at", "_burst", "_rate", "_tokens")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        if rate <= 0 or burst < 1:
            raise ValueError(f"rate must be above 0 and burst at least 1, got {rate}, {burst}")
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._at = now

    def take(self, now: float, tokens: float = 1.0) -> float:
        """Take `tokens` and answer 0.0, or take none and answer the seconds until there are enough.

        A request above `burst` is charged as `burst`.
        """
        tokens = min(tokens, self._burst)
        self._fill(now)
        if self._tokens >= tokens:
            self._tokens -= tokens
            return 0.0
        return (tokens - self._tokens) / self._rate

    def wait(self, now: float, tokens: float = 1.0) -> float:
        """Seconds until there are so many tokens; takes none."""
        self._fill(now)
        return max(0.0, (min(tokens, self._burst) - self._tokens) / self._rate)

    def charge(self, now: float, tokens: float) -> None:
        """Take `tokens` for what is done already; what is not there is owed, at most a burst."""
        self._fill(now)
        self._tokens = max(-self._burst, self._tokens - tokens)

    def _fill(self, now: float) -> None:
        if now > self._at:
            self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
            self._at = now
