"""Counting what was seen against what was stored."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.common.stream import Position
from services.common.stream.nats.loss_check import Tally

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
    tally = Tally(remembered=200)
    tally.start(stored_before)
    lost = False
    for number, (subject, seen, looked_up) in enumerate(records):
        position = Position(1, number)
        if seen:
            tally.saw(subject, position)
        else:
            lost = True
        if looked_up:
            missed = tally.missed(subject, position, stored_before + number + 1)
            # A record that was not seen itself says so.
            assert missed is (lost if seen else None)
            if seen:
                lost = False


def test_what_was_seen_and_never_stored_hides_no_later_loss() -> None:
    tally = Tally()
    tally.saw("a", Position(1, 1))
    assert tally.missed("a", Position(1, 1), 1) is False
    tally.saw("b", Position(1, 1))  # Never stored.
    tally.saw("a", Position(1, 2))
    assert tally.missed("a", Position(1, 2), 2) is False
    tally.saw("a", Position(1, 4))  # The one before it was lost.
    assert tally.missed("a", Position(1, 4), 4) is True


def test_it_remembers_no_more_than_it_may() -> None:
    tally = Tally(remembered=3)
    for seq in range(5):
        tally.saw("a", Position(1, seq))
    assert tally.missed("a", Position(1, 1), 2) is None
    assert tally.missed("a", Position(1, 2), 3) is False
