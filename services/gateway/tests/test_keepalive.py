"""Pings by one timer: who is pinged when, and who is given up."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from services.gateway.websocket.rfc6455.keepalive import Keepalive, Pinged

INTERVAL, TIMEOUT = 20.0, 60.0


class Clock:
    """Time that passes when the test says so, and one timer at most."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.timer: tuple[float, Callable[[], None]] | None = None

    def schedule(self, seconds: float, call: Callable[[], None]) -> None:
        assert self.timer is None, "a second timer"
        self.timer = (self.now + seconds, call)

    def until(self, when: float) -> None:
        while self.timer is not None and self.timer[0] <= when:
            (self.now, call), self.timer = self.timer, None
            call()
        self.now = when


class One(Pinged):
    """A connection that answers, or does not."""

    def __init__(self, clock: Clock, *, answers: bool, forgiven: bool = False) -> None:
        super().__init__()
        self.clock = clock
        self.answers = answers
        self.forgiven = forgiven
        self.pings: list[float] = []
        self.given_up: list[float] = []

    def send_ping(self, payload: bytes) -> None:
        assert self.forgiven or not self.given_up
        assert struct.unpack("!I", payload) == (self.ping,)
        self.pings.append(self.clock.now)
        if self.answers:
            self.ping = 0

    def ping_overdue(self) -> bool:
        self.given_up.append(self.clock.now)
        return not self.forgiven


def wheel(clock: Clock, interval: float = INTERVAL, timeout: float = TIMEOUT) -> Keepalive:
    return Keepalive(interval, timeout, clock.schedule, lambda: clock.now)


@given(
    st.floats(0.05, 100),
    st.floats(0.05, 100),
    st.lists(st.tuples(st.floats(0, 50), st.booleans()), min_size=1, max_size=10),
)
def test_who_answers_is_pinged_in_every_interval_and_who_does_not_is_given_up_in_time(
    interval: float, timeout: float, arrivals: list[tuple[float, bool]]
) -> None:
    clock = Clock()
    keepalive = wheel(clock, interval, timeout)
    grain = min(interval, timeout) / 16
    ones: list[tuple[float, One]] = []
    for after, answers in sorted(arrivals):
        clock.until(1000.0 + after)
        one = One(clock, answers=answers)
        keepalive.add(one)
        ones.append((clock.now, one))
    clock.until(clock.now + 4 * interval + timeout)
    for joined, one in ones:
        assert interval / 2 - grain <= one.pings[0] - joined <= interval + 2 * grain + 1e-6
        if one.answers:
            gaps = [b - a for a, b in zip(one.pings, one.pings[1:], strict=False)]
            assert all(interval - 1e-6 <= gap <= interval + 2 * grain + 1e-6 for gap in gaps)
            assert not one.given_up
        else:
            (ended,) = one.given_up
            assert len(one.pings) == 1
            assert timeout - 1e-6 <= ended - one.pings[0] <= timeout + 2 * grain + 1e-6


def test_one_that_is_forgiven_is_pinged_again() -> None:
    clock = Clock()
    keepalive = wheel(clock)
    one = One(clock, answers=False, forgiven=True)
    keepalive.add(one)
    clock.until(clock.now + 5 * TIMEOUT)
    assert len(one.given_up) >= 3
    assert len(one.pings) > len(one.given_up)


@given(st.randoms(use_true_random=False))
def test_who_left_is_forgotten_and_an_empty_wheel_does_not_turn(choose: random.Random) -> None:
    clock = Clock()
    keepalive = wheel(clock)
    ones = [One(clock, answers=choose.random() < 0.5) for _ in range(50)]
    for one in ones:
        keepalive.add(one)
    clock.until(clock.now + choose.uniform(0, 2 * INTERVAL))
    for one in ones:
        keepalive.remove(one)
    counts = [len(one.pings) for one in ones]
    clock.until(clock.now + 10 * INTERVAL)
    assert [len(one.pings) for one in ones] == counts
    assert len(keepalive) == 0
    assert clock.timer is None


def test_many_who_come_at_once_are_not_pinged_at_once() -> None:
    clock = Clock()
    keepalive = wheel(clock)
    ones = [One(clock, answers=True) for _ in range(1000)]
    for one in ones:
        keepalive.add(one)
    clock.until(clock.now + 2 * INTERVAL)
    moments = [one.pings[0] for one in ones]
    assert max(moments.count(moment) for moment in set(moments)) < 300
