from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingestor.integrity.sequencer import (
    DUPLICATE,
    IN_ORDER,
    REORDERED,
    RESTART_TOLERANCE_US,
    RESTART_WITNESSES,
    RESTARTED,
    Gap,
    Numbering,
    Sequencer,
)

NOW = 1_790_000_000_000_000
numberings = st.sampled_from(Numbering)


def contiguous(held: int | None = 100, held_time: int = NOW) -> Sequencer:
    return Sequencer(Numbering.CONTIGUOUS, held, held_time)


def test_the_first_number_of_a_stream_is_in_order_whatever_it_is() -> None:
    for numbering in Numbering:
        assert Sequencer(numbering).observe(137_212_619_516) is IN_ORDER


def test_a_step_of_one_is_in_order_and_a_larger_one_names_what_is_missing() -> None:
    sequencer = contiguous()
    assert sequencer.observe(101) is IN_ORDER
    assert sequencer.observe(105) == Gap(101, 104)
    assert Gap(101, 104).count == 4


def test_a_ticker_is_never_checked_for_steps_of_one() -> None:
    """Measured: 0 of 97 steps of `ticker.sequence` are +1, the largest 2,152.

    Checking for +1 is coinbase-pro-node #227 and coinbase-pro-trading-toolkit #39.
    """
    sequencer = Sequencer(Numbering.INCREASING, 100)
    for number in (102, 120, 2_272):
        assert sequencer.observe(number) is IN_ORDER
        sequencer.advance(number)
    assert sequencer.observe(2_272) is DUPLICATE


def test_nothing_is_held_before_the_caller_says_so() -> None:
    """What could not be passed on shows up as a gap by itself."""
    sequencer = contiguous()
    assert sequencer.observe(101) is IN_ORDER
    assert sequencer.observe(102) == Gap(101, 101)


def test_a_seed_ahead_of_what_is_held_is_part_of_the_gap() -> None:
    assert contiguous().witness(103) == Gap(101, 103)
    assert contiguous().witness(100) is IN_ORDER
    assert contiguous().witness(99) is DUPLICATE


def test_a_heartbeat_ahead_becomes_a_gap_only_when_the_next_one_finds_it_still_missing() -> None:
    sequencer = contiguous()
    assert sequencer.heartbeat(102) is IN_ORDER
    assert sequencer.heartbeat(102) == Gap(101, 102)


def test_the_loss_of_exactly_one_last_trade_is_found_by_the_next_heartbeat() -> None:
    """The quiet market's whole promise: one trade is missing, and no newer one tells so."""
    sequencer = contiguous()
    assert sequencer.heartbeat(101) is IN_ORDER
    assert sequencer.heartbeat(101) == Gap(101, 101)
    assert sequencer.heartbeat(102) == Gap(101, 101)


@given(held=st.integers(1, 50), marks=st.lists(st.integers(1, 60), min_size=2))
def test_a_heartbeat_says_exactly_what_the_one_before_already_knew(
    held: int, marks: list[int]
) -> None:
    sequencer = contiguous(held)
    verdicts = [sequencer.heartbeat(mark) for mark in marks]
    for before, mark, verdict in zip([held, *marks], marks, verdicts, strict=False):
        if before > held and mark > held:
            assert verdict == Gap(held + 1, before)
        else:
            assert verdict is IN_ORDER


def test_a_heartbeat_that_was_only_early_is_forgotten() -> None:
    sequencer = contiguous()
    assert sequencer.heartbeat(101) is IN_ORDER
    sequencer.advance(101)
    assert sequencer.heartbeat(101) is IN_ORDER
    assert sequencer.heartbeat(102) is IN_ORDER


def test_a_heartbeat_gap_ends_at_the_mark_that_had_time_to_be_reached() -> None:
    sequencer = contiguous()
    sequencer.heartbeat(102)
    assert sequencer.heartbeat(110) == Gap(101, 102)


def test_old_numbers_on_new_events_are_a_restart_once_enough_of_them_agree() -> None:
    sequencer = contiguous()
    later = NOW + RESTART_TOLERANCE_US + 1
    for number in range(1, RESTART_WITNESSES):
        assert sequencer.observe(number, later) is DUPLICATE
    assert sequencer.observe(RESTART_WITNESSES, later) is RESTARTED


def test_a_single_broken_number_does_not_restart_a_stream() -> None:
    sequencer = contiguous()
    later = NOW + RESTART_TOLERANCE_US + 1
    for number in range(101, 110):
        assert sequencer.observe(3, later) is DUPLICATE
        assert sequencer.observe(number, NOW) is IN_ORDER
        sequencer.advance(number, NOW)


def test_repeated_old_messages_are_duplicates_however_many_they_are() -> None:
    sequencer = contiguous()
    for _ in range(50):
        assert sequencer.observe(90, NOW - 5) is DUPLICATE


def test_a_time_is_no_identity_and_one_that_goes_back_is_suspect() -> None:
    """Recorded: 1,442 of 9,719 updates of `level2` have the time of the one before."""
    sequencer = Sequencer(Numbering.BY_TIME)
    for time in (10, 20, 30, 30):
        assert sequencer.observe(time) is IN_ORDER
        sequencer.advance(time)
    assert sequencer.observe(30) is IN_ORDER
    assert sequencer.observe(20) is REORDERED
    assert sequencer.observe(25) is REORDERED


def test_after_a_restart_the_new_numbering_goes_on_from_what_it_was_given() -> None:
    sequencer = contiguous()
    sequencer.restart(4, NOW)
    assert sequencer.observe(5, NOW) is IN_ORDER
    assert sequencer.observe(7, NOW) == Gap(5, 6)


def test_without_the_held_numbers_time_nothing_old_is_a_restart() -> None:
    unknown = Sequencer(Numbering.CONTIGUOUS, 100)
    restarted = contiguous()
    restarted.restart(100)
    for sequencer in (unknown, restarted):
        for _ in range(3 * RESTART_WITNESSES):
            assert sequencer.observe(3, NOW) is DUPLICATE


def test_an_old_number_counts_against_the_newest_time_that_was_told() -> None:
    sequencer = contiguous(100, NOW)
    sequencer.advance(101, NOW + 5)
    # No time was told with it: the one before stands.
    sequencer.advance(102)
    for _ in range(3 * RESTART_WITNESSES):
        assert sequencer.observe(3, NOW + 5 + RESTART_TOLERANCE_US) is DUPLICATE
    assert not sequencer.outlived(NOW + 5 + RESTART_TOLERANCE_US)
    assert sequencer.outlived(NOW + 5 + RESTART_TOLERANCE_US + 1)


def test_witnesses_of_a_restart_are_counted_from_nothing_after_each_number_in_order() -> None:
    sequencer = contiguous()
    later = NOW + RESTART_TOLERANCE_US + 1
    sequencer.advance(101, NOW)
    for _ in range(RESTART_WITNESSES - 1):
        assert sequencer.observe(3, later) is DUPLICATE
    assert sequencer.observe(3, later) is RESTARTED


def test_marks_without_their_messages_prove_a_restart_too() -> None:
    sequencer = contiguous()
    later = NOW + RESTART_TOLERANCE_US + 1
    for _ in range(RESTART_WITNESSES - 1):
        assert sequencer.witness(3, later) is DUPLICATE
    assert sequencer.witness(3, later) is RESTARTED


def test_a_restart_forgets_the_marks_of_the_old_numbering() -> None:
    sequencer = contiguous()
    sequencer.heartbeat(102)
    sequencer.restart(4, NOW)
    assert sequencer.heartbeat(103) is IN_ORDER
    assert sequencer.heartbeat(103) == Gap(5, 103)
    later = NOW + RESTART_TOLERANCE_US + 1
    assert [sequencer.observe(1, later) for _ in range(RESTART_WITNESSES)][-1] is RESTARTED


@given(numbering=numberings, numbers=st.lists(st.integers(1, 60)))
def test_what_is_passed_on_strictly_increases(numbering: Numbering, numbers: list[int]) -> None:
    sequencer = Sequencer(numbering)
    passed: list[int] = []
    for number in numbers:
        if sequencer.observe(number) is IN_ORDER:
            sequencer.advance(number)
            passed.append(number)
    # Of a time there may be many.
    wanted = passed if numbering is Numbering.BY_TIME else set(passed)
    assert passed == sorted(wanted)


@given(start=st.integers(1, 2**40), arrivals=st.lists(st.integers(-5, 30), min_size=1))
def test_a_contiguous_verdict_says_exactly_what_is_missing(start: int, arrivals: list[int]) -> None:
    """An independent model: the set of numbers seen, and the highest below which all is there."""
    sequencer = Sequencer(Numbering.CONTIGUOUS, start)
    top = start
    for step in arrivals:
        number = max(0, start + step)
        verdict = sequencer.observe(number)
        if number <= top:
            assert verdict is DUPLICATE
        elif number == top + 1:
            assert verdict is IN_ORDER
            sequencer.advance(number)
            top = number
        else:
            assert isinstance(verdict, Gap)
            assert set(range(verdict.first, verdict.last + 1)) == set(range(top + 1, number))


@given(marks=st.lists(st.integers(100, 110), min_size=2))
def test_heartbeats_never_report_what_was_reached_in_time(marks: list[int]) -> None:
    """With every trade delivered before the next heartbeat, no heartbeat is a gap."""
    sequencer = contiguous()
    for mark in sorted(marks):
        assert sequencer.heartbeat(mark) is IN_ORDER
        sequencer.advance(mark)


@pytest.mark.parametrize("numbering", list(Numbering))
def test_a_sequencer_goes_on_where_an_earlier_one_ended(numbering: Numbering) -> None:
    assert Sequencer(numbering, 500, NOW).observe(501, NOW) is IN_ORDER
    if numbering is not Numbering.BY_TIME:
        assert Sequencer(numbering, 500, NOW).observe(499, NOW) is DUPLICATE
