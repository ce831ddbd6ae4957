"""The rules of freshness one at a time, at their edges."""

from __future__ import annotations

import time

from services.common.clock import now_us
from services.gateway.chain.freshness import Age, Pulses


def test_the_time_of_day_is_in_whole_microseconds() -> None:
    before = time.time_ns() // 1000
    now = now_us()
    assert before <= now <= time.time_ns() // 1000
    assert isinstance(now, int)


def test_a_product_is_heard_of_by_its_newest_pulse() -> None:
    pulses = Pulses()
    assert pulses.of("v", "a") is None
    pulses.record("v", ["a"], 0, 9)
    assert pulses.of("v", "a") is None
    pulses.record("v", ["a", "b"], 1, 9)
    assert (pulses.of("v", "a"), pulses.of("v", "b"), pulses.of("w", "a")) == (1, 1, None)
    pulses.record("v", ["a"], 10, 9)
    pulses.record("v", ["a"], 8, 9)
    assert (pulses.of("v", "a"), pulses.of("v", "b")) == (9, 1)


def test_it_is_stale_beyond_its_time_and_says_so_once() -> None:
    age = Age(100, 1000)
    assert (age.heard, age.stale, age.since) == (1000, False, 1000)
    assert not age.judge(1100)
    assert age.judge(1101)
    assert (age.stale, age.since) == (True, 1101)
    assert not age.judge(1500)
    age.prove(1450, 0, 1, 1500)
    assert age.judge(1550)
    assert (age.stale, age.since) == (False, 1550)


def test_the_newest_of_pulse_and_record_counts_and_it_never_goes_back() -> None:
    age = Age(100, 1000)
    age.prove(500, 0, 1, 1000)
    assert age.heard == 500, "what was assumed before is not held against a first proof"
    age.prove(500, 600, 2, 1000)
    assert age.heard == 600
    age.prove(500, 2000, 3, 1000)
    assert age.heard == 1000, "a record is not of the future"
    age.prove(400, 300, 4, 2000)
    assert age.heard == 1000


def test_without_pulses_it_counts_when_another_record_came() -> None:
    age = Age(100, 1000)
    age.prove(None, 5, None, 1100)
    assert age.heard == 1000, "no record came"
    age.prove(None, 5, "a", 1200)
    assert age.heard == 1200
    age.prove(None, 5, "a", 1300)
    assert age.heard == 1200
    age.prove(None, 5, "b", 1400)
    assert age.heard == 1400
