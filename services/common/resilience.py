"""How callers treat a dependency that fails or is asked too much. Pure: the caller brings the time.

Backoff          how long to wait before the next attempt: exponential up to a cap, with jitter
TokenBucket      a rate with a burst: requests, commands, log lines
CircuitBreaker   stop asking who does not answer, and find out carefully when they do

closed ── `threshold` failures in a row ──> open ── `recovery_s` later ──> half open
  ^                                          ^                               │
  └────────────── the probe succeeded ───────┼───── the probe failed ────────┘
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import partial

# Whole numbers of doublings that exceed any cap; larger powers would only overflow.
_MOST_DOUBLINGS = 30


def delay_s(
    attempt: int,  # how many attempts failed before this one
    *,
    first_s: float = 0.05,  # the bound of the first delay; each next bound is twice the one before
    cap_s: float = 2.0,  # the largest bound
    # The share of the bound that a delay has at least. One half keeps a refusing server from being
    # hammered; 0.0 (full jitter) spreads many clients best; 1.0 is no jitter.
    least: float = 0.5,
    draw: Callable[[], float] = random.random,  # a number in [0, 1)
) -> float:
    """Seconds to wait after failed attempt number `attempt` (0, 1, ...)."""
    bound = min(cap_s, first_s * 2.0 ** min(attempt, _MOST_DOUBLINGS))
    return bound * (least + (1.0 - least) * draw())


class Backoff:
    """Counts the attempts of one caller. `next_delay` after a failure, `reset` after a success."""

    def __init__(
        self,
        first_s: float,  # as in `delay_s`; so are `cap_s`, `least` and `draw`
        cap_s: float,
        *,
        least: float = 0.5,
        immediate: bool = False,  # the first delay is zero, and the bounds begin with the second
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._delay_s = partial(delay_s, first_s=first_s, cap_s=cap_s, least=least, draw=draw)
        self._immediate = immediate
        self.attempts = 0  # failures since the last success

    def next_delay(self) -> float:
        """Seconds to wait before the next attempt."""
        attempt = self.attempts - 1 if self._immediate else self.attempts
        self.attempts += 1
        return 0.0 if attempt < 0 else self._delay_s(attempt)

    def reset(self) -> None:
        self.attempts = 0


class Circuit(Enum):
    """Values are those of the metric `md_circuit_state`."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


@dataclass(slots=True, eq=False)
class CircuitBreaker:
    """Ask `allows` before each call and tell how it went. Times in seconds, any clock."""

    threshold: int  # failures in a row that open the circuit
    recovery_s: float  # how long it stays open before one call may probe
    _failures: int = 0
    _probe_at: float = 0.0
    state: Circuit = Circuit.CLOSED

    def allows(self, now: float) -> bool:
        """Whether a call may be made; True in an open circuit makes this call the probe."""
        if self.state is Circuit.CLOSED:
            return True
        if now < self._probe_at:
            return False
        self.state = Circuit.HALF_OPEN
        # A probe that is never told of (its caller was cancelled) is replaced after a while.
        self._probe_at = now + self.recovery_s
        return True

    def wait(self, now: float) -> float:
        """Seconds until a call may be made; 0 when at once."""
        return 0.0 if self.state is Circuit.CLOSED else max(0.0, self._probe_at - now)

    def succeeded(self) -> None:
        self._failures = 0
        self.state = Circuit.CLOSED

    def failed(self, now: float) -> None:
        self._failures += 1
        if self.state is Circuit.HALF_OPEN or self._failures >= self.threshold:
            self.state = Circuit.OPEN
            self._probe_at = now + self.recovery_s


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
