"""Token buckets: a rate with a burst. Pure; the caller brings the time."""

from __future__ import annotations


class TokenBucket:
    """Holds at most `burst` tokens and gains `rate` of them a second.

    `acquire` takes tokens that are there, and none otherwise. Two methods may go into debt, which
    later calls wait off: `charge` for what is done already, and `reserve` for callers that wait.

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

    def acquire(self, now: float, tokens: float = 1.0, *, spare: float = 0.0) -> float:
        """Take `tokens` and answer 0.0, or take none and answer the seconds until there are enough.

        A request above `burst` is charged as `burst`. `spare` tokens must be left for others.
        """
        tokens = min(tokens, self._burst)
        self._fill(now)
        lacking = tokens + spare - self._tokens
        if lacking <= 0.0:
            self._tokens -= tokens
            return 0.0
        return lacking / self._rate

    def wait(self, now: float, tokens: float = 1.0) -> float:
        """Seconds until there are so many tokens; takes none."""
        self._fill(now)
        return max(0.0, (min(tokens, self._burst) - self._tokens) / self._rate)

    def charge(self, now: float, tokens: float) -> None:
        """Take `tokens` for what is done already; what is not there is owed, at most a burst."""
        self._fill(now)
        self._tokens = max(-self._burst, self._tokens - tokens)

    def reserve(self, now: float) -> float:
        """Take one token, owed without limit; seconds until the caller may use it.

        Callers that wait so long are served in the order in which they asked; nobody overtakes.
        """
        self._fill(now)
        self._tokens -= 1.0
        return max(0.0, -self._tokens / self._rate)

    def drain(self, now: float) -> None:
        """The other side says that no token is left (HTTP 429): believe it."""
        self._fill(now)
        self._tokens = min(self._tokens, 0.0)

    def _fill(self, now: float) -> None:
        if now > self._at:
            self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
            self._at = now
