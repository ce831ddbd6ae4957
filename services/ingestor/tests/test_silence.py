"""When a silent level 2 channel is suspect: what may come late or never, and what may not."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingestor.integrity.silence import Silence, SilenceRule

SECOND = 1_000_000
RULE = SilenceRule(steps=20, grace_us=1_500_000)


def heartbeats(silence: Silence, *beats: tuple[int, int]) -> list[int | None]:
    """Feed (sequence, µs) each."""
    return [silence.heartbeat(sequence, ts) for sequence, ts in beats]


@pytest.mark.parametrize(("steps", "suspect"), [(19, None), (20, 20), (21, 21)])
def test_so_many_steps_are_suspect_and_one_less_is_not(steps: int, suspect: int | None) -> None:
    silence = Silence(RULE)
    told = heartbeats(silence, (100, 0), (100 + steps, SECOND), (100 + steps, 9 * SECOND))
    assert told == [None, None, suspect]


@pytest.mark.parametrize(("later_us", "suspect"), [(1_499_999, None), (1_500_000, 1792)])
def test_steps_count_once_they_were_named_so_long_ago(later_us: int, suspect: int | None) -> None:
    """In a recording 121 steps were named 7 ms before their update, and single trades moved the
    sequence by 1,792: however many there are, their update may be on its way."""
    silence = Silence(RULE)
    told = heartbeats(silence, (100, 0), (1892, 9 * SECOND), (1892, 9 * SECOND + later_us))
    assert told == [None, None, suspect]


def test_steps_named_with_the_first_heartbeat_are_not_counted() -> None:
    silence = Silence(RULE)
    silence.update()
    assert heartbeats(silence, (5000, 0), (5019, SECOND), (5019, 9 * SECOND)) == [None] * 3


def test_newer_steps_are_left_out_and_counted_when_their_time_has_come() -> None:
    silence = Silence(RULE)
    told = heartbeats(
        silence, (100, 0), (119, SECOND), (500, 2 * SECOND), (900, 3 * SECOND), (900, 4 * SECOND)
    )
    assert told == [None, None, None, None, 400]


@pytest.mark.parametrize("what", ["update", "base"])
def test_an_update_or_a_base_begins_the_count_anew(what: str) -> None:
    silence = Silence(RULE)
    heartbeats(silence, (100, 0), (119, SECOND))
    getattr(silence, what)()
    told = heartbeats(silence, (500, 2 * SECOND), (519, 3 * SECOND), (519, 9 * SECOND))
    assert told == [None] * 3


def test_a_sequence_that_goes_back_begins_the_count_anew() -> None:
    silence = Silence(RULE)
    told = heartbeats(silence, (100, 0), (5, SECOND), (24, 2 * SECOND), (24, 9 * SECOND))
    assert told == [None] * 4
    assert heartbeats(silence, (25, 10 * SECOND), (25, 12 * SECOND)) == [None, 20]


def test_no_steps_is_never() -> None:
    silence = Silence(RULE._replace(steps=0))
    assert heartbeats(silence, (100, 0), (9000, SECOND), (9000, 99 * SECOND)) == [None] * 3


def suspicions(silence: Silence, seconds: int, steps_a_second: int) -> list[int]:
    """Seconds at which a product without updates is suspected."""
    return [
        second
        for second in range(seconds)
        if silence.heartbeat(second * steps_a_second, second * SECOND) is not None
    ]


def test_each_suspicion_in_vain_doubles_the_steps_up_to_64_times_as_many() -> None:
    silence = Silence(SilenceRule(steps=1, grace_us=SECOND))
    found = suspicions(silence, 400, 1)
    pauses = [later - sooner for sooner, later in pairwise(found)]
    # Two seconds more than the steps: the heartbeat that is counted from, and the grace.
    assert found[0] == 2
    assert pauses == [4, 6, 10, 18, 34, 66, 66, 66, 66]


def test_an_update_ends_the_doubling_and_a_base_does_not() -> None:
    for anew, pause in ((Silence.update, 2), (Silence.base, 3)):
        silence = Silence(SilenceRule(steps=1, grace_us=SECOND))
        assert suspicions(silence, 3, 1) == [2]
        anew(silence)
        assert suspicions(silence, 9, 1)[0] == pause


@given(
    rule=st.builds(SilenceRule, steps=st.integers(1, 60), grace_us=st.integers(1, 5 * SECOND)),
    runs=st.lists(
        st.tuples(st.integers(0, 5000), st.integers(1, 60 * SECOND), st.floats(0, 1)), max_size=40
    ),
)
def test_a_feed_whose_updates_come_within_the_grace_is_never_suspected(
    rule: SilenceRule, runs: list[tuple[int, int, float]]
) -> None:
    """Each run: steps that touch levels, a heartbeat, and their update within the grace of it."""
    silence = Silence(rule)
    sequence, now = 1000, 0
    for steps, pause, part in runs:
        sequence += steps
        assert silence.heartbeat(sequence, now) is None
        silence.update()
        # Orders that never rest, less than the rule's steps, and heartbeats that go on.
        for alone in range(rule.steps):
            now += int(pause * part) + 1
            assert silence.heartbeat(sequence + alone, now) is None
        sequence += rule.steps
        # These steps' update is on its way as well.
        now += rule.grace_us - 1
        silence.update()


@given(
    rule=st.builds(SilenceRule, steps=st.integers(1, 100), grace_us=st.integers(1, 5 * SECOND)),
    steps=st.lists(st.integers(0, 40), min_size=1, max_size=60),
)
def test_a_silent_book_is_suspected_at_the_first_heartbeat_that_may(
    rule: SilenceRule, steps: list[int]
) -> None:
    silence = Silence(rule)
    sequence = 1000
    named = [(0, sequence)]
    silence.heartbeat(sequence, 0)
    for second, more in enumerate(steps, 1):
        now = second * SECOND
        sequence += more
        named.append((now, sequence))
        due = [number for ts, number in named if now - ts >= rule.grace_us]
        expected = due and due[-1] - 1000 >= rule.steps
        told = silence.heartbeat(sequence, now)
        assert (told is not None) == bool(expected)
        if told is not None:
            assert told == due[-1] - 1000
            return
