"""Counting what was seen against what was stored."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.common.stream import Position
from services.common.stream.nats.loss_check import LossCheck

SUBJECTS = ("a", "b", "c")


@given(
    st.lists(
        st.tuples(
            st.sampled_from(SUBJECTS),
            st.booleans(),  # seen, or lost on the way
            st.booleans(),  # looked up when it was stored
        ),
        max_size=80,
    ),
    st.integers(0, 1000),
)
def test_it_is_said_exactly_when_something_was_missed_between_two_looks(
    records: list[tuple[str, bool, bool]], stored_before: int
) -> None:
    check = LossCheck(remembered=200)
    check.start(stored_before)
    lost = False
    for number, (subject, seen, looked_up) in enumerate(records):
        position = Position(1, number)
        if seen:
            check.saw(subject, position)
        else:
            lost = True
        if looked_up:
            missed = check.missed(subject, position, stored_before + number + 1)
            # A record that was not seen itself says so.
            assert missed is (lost if seen else None)
            if seen:
                lost = False


def test_what_was_seen_and_never_stored_hides_no_later_loss() -> None:
    check = LossCheck()
    check.saw("a", Position(1, 1))
    assert check.missed("a", Position(1, 1), 1) is False
    check.saw("b", Position(1, 1))  # Never stored.
    check.saw("a", Position(1, 2))
    assert check.missed("a", Position(1, 2), 2) is False
    check.saw("a", Position(1, 4))  # The one before it was lost.
    assert check.missed("a", Position(1, 4), 4) is True


def test_it_remembers_no_more_than_it_may() -> None:
    check = LossCheck(remembered=3)
    for seq in range(5):
        check.saw("a", Position(1, seq))
    assert check.missed("a", Position(1, 1), 2) is None
    assert check.missed("a", Position(1, 2), 3) is False
