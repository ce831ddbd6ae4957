"""A circuit breaker: stop asking who does not answer, and find out carefully when they do. Pure.

closed ── `threshold` failures in a row ──> open ── `recovery_s` later ──> half open
  ^                                          ^                               │
  └────────────── the probe succeeded ───────┼───── the probe failed ────────┘
"""

from __future__ import annotations

from enum import Enum


class Circuit(Enum):
    """Values are those of the metric `md_circuit_state`."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class CircuitBreaker:
    """Ask `allows` before each call and tell how it went. Times in seconds, any clock.

    Args:
        threshold: failures in a row that open the circuit.
        recovery_s: how long it stays open before one call may probe.
    """

    def __init__(self, threshold: int, recovery_s: float) -> None:
        self._threshold = threshold
        self._recovery_s = recovery_s
        self._failures = 0
        self._probe_at = 0.0
        self.state = Circuit.CLOSED

    def allows(self, now: float) -> bool:
        """Whether a call may be made; True in an open circuit makes this call the probe."""
        if self.state is Circuit.CLOSED:
            return True
        if now < self._probe_at:
            return False
        self.state = Circuit.HALF_OPEN
        # A probe that is never told of (its caller was cancelled) is replaced after a while.
        self._probe_at = now + self._recovery_s
        return True

    def wait(self, now: float) -> float:
        """Seconds until a call may be made; 0 when at once."""
        return 0.0 if self.state is Circuit.CLOSED else max(0.0, self._probe_at - now)

    def succeeded(self) -> None:
        self._failures = 0
        self.state = Circuit.CLOSED

    def failed(self, now: float) -> None:
        self._failures += 1
        if self.state is Circuit.HALF_OPEN or self._failures >= self._threshold:
            self.state = Circuit.OPEN
            self._probe_at = now + self._recovery_s
