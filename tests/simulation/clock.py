"""Time that passes only when everybody waits."""

from __future__ import annotations

import math

from tests.simulation.machine import running_process

_SECOND_NS = 1_000_000_000


class VirtualClock:
    """Time since the simulation began, and what the wall clocks of its machines make of it."""

    def __init__(self, began_at_ns: int) -> None:
        """`began_at_ns`: the true wall time of the beginning, in nanoseconds since 1970."""
        self.now_ns = 0
        self._began_at_ns = began_at_ns

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass, at least one nanosecond so that waiting comes to an end."""
        self.now_ns += max(1, math.ceil(seconds * _SECOND_NS))

    def monotonic(self) -> float:
        """Seconds since the beginning; the same on every machine."""
        return self.now_ns / _SECOND_NS

    def monotonic_ns(self) -> int:
        return self.now_ns

    def true_time_ns(self) -> int:
        """What a clock that is right would show, in nanoseconds since 1970."""
        return self._began_at_ns + self.now_ns

    def time_ns(self) -> int:
        """The wall clock of the machine whose code asks; true time for the simulation's own."""
        try:
            machine = running_process().machine
        except LookupError:
            return self.true_time_ns()
        drifted = int(self.now_ns * machine.clock_drift)
        return self.true_time_ns() + machine.clock_ahead_ns + drifted

    def time(self) -> float:
        return self.time_ns() / _SECOND_NS
