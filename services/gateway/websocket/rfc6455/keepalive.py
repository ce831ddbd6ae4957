"""WebSocket pings for all connections of a listener, by one timer. Pure, but for `schedule`."""

from __future__ import annotations

import math
import random
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

# Of an interval: how exact a deadline is.
_GRAIN = 1 / 16


class Pinged(ABC):
    """A connection that is kept alive."""

    __slots__ = ("ping", "pinged", "slot")

    def __init__(self) -> None:
        self.slot: dict[Pinged, None] | None = None  # the wheel's; None while it is on no wheel
        # Number of the ping that waits for its answer, 0 when none does. The owner sets it to 0
        # when a pong with this number comes.
        self.ping = 0
        self.pinged = 0.0  # when that ping was sent

    @abstractmethod
    def send_ping(self, payload: bytes) -> None: ...

    @abstractmethod
    def ping_overdue(self) -> bool:
        """No answer came in time: end it and answer True, or forgive it this once."""


@dataclass(eq=False)
class Keepalive:
    """A wheel of connections, by when each has to be looked at next.

    A timer for each connection would cost it a timer's memory and the loop a heap of them. Here
    one timer turns the wheel, only while somebody is on it.
    """

    interval_s: float  # between two pings
    timeout_s: float  # how long a ping may stay unanswered
    schedule: Callable[[float, Callable[[], None]], object]  # calls back after so many seconds
    clock: Callable[[], float]  # seconds, does not go back
    _slots: dict[int, dict[Pinged, None]] = field(default_factory=dict)
    _turned: int = 0
    _turning: bool = False
    _number: int = 0

    def __post_init__(self) -> None:
        self._grain = min(self.interval_s, self.timeout_s) * _GRAIN

    def add(self, one: Pinged) -> None:
        """Keep it alive from now on."""
        # Many who come at once are not all pinged at once for ever after.
        self._put(one, self.clock() + self.interval_s * random.uniform(0.5, 1.0))

    def remove(self, one: Pinged) -> None:
        """Leave it alone from now on."""
        if one.slot is not None:
            one.slot.pop(one, None)
            one.slot = None

    def __len__(self) -> int:
        return sum(map(len, self._slots.values()))

    def _put(self, one: Pinged, due: float) -> None:
        if not self._turning:
            self._turned = math.floor(self.clock() / self._grain)
            self._turning = True
            self.schedule(self._grain, self._turn)
        number = max(self._turned + 1, math.ceil(due / self._grain))
        one.slot = self._slots.setdefault(number, {})
        one.slot[one] = None

    def _turn(self) -> None:
        now = self.clock()
        reached = math.floor(now / self._grain)
        due = [number for number in self._slots if number <= reached]
        self._turned = reached
        for number in sorted(due):
            slot = self._slots.pop(number)
            while slot:
                # One may take others off the wheel while it is looked at.
                one, _ = slot.popitem()
                one.slot = None
                self._look(one, now)
        if self._slots:
            self.schedule(self._grain, self._turn)
        else:
            self._turning = False

    def _look(self, one: Pinged, now: float) -> None:
        if one.ping and now - one.pinged >= self.timeout_s:
            if one.ping_overdue():
                return
            one.ping = 0
        elif not one.ping and now - one.pinged >= self.interval_s:
            self._number = self._number % 0xFFFF_FFFF + 1
            one.ping, one.pinged = self._number, now
            one.send_ping(struct.pack("!I", self._number))
        again = one.pinged + self.interval_s
        if one.ping:
            again = min(max(again, now + self._grain), one.pinged + self.timeout_s)
        self._put(one, again)
