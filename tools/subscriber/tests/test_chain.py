"""The client's rule, judged against a model of the log."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.subscriber import ChainChecker, Verdict

EPOCH = 7
logs = st.lists(st.integers(1, 1_000_000), min_size=2, max_size=60, unique=True).map(sorted)


def prev_of(log: list[int], index: int) -> int | None:
    return log[index - 1] if index else None


@given(logs, st.data())
def test_a_complete_stream_applies_whatever_is_repeated(
    log: list[int], data: st.DataObject
) -> None:
    checker = ChainChecker()
    sent = 0
    for index, seq in enumerate(log):
        assert checker.incr(EPOCH, seq, prev_of(log, index)) is Verdict.APPLIED
        again = data.draw(st.integers(0, index))
        assert checker.incr(EPOCH, log[again], prev_of(log, again)) is Verdict.DUPLICATE
        sent += 1
    assert checker.counts.applied == sent
    assert checker.counts.breaks == 0
    assert checker.seq == log[-1]


@given(logs, st.data())
def test_every_hole_is_found_by_the_next_record_and_nothing_applies_until_a_snapshot(
    log: list[int], data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, len(log) - 2))
    dropped = data.draw(st.sets(st.integers(start + 1, len(log) - 1), max_size=len(log)))
    checker = ChainChecker(log[start], EPOCH)
    held = start
    broken = False
    for index in range(start + 1, len(log)):
        if index in dropped:
            continue
        verdict = checker.incr(EPOCH, log[index], log[index - 1])
        if broken:
            assert verdict is Verdict.WAITING
        elif index == held + 1:
            assert verdict is Verdict.APPLIED
            held = index
        else:
            assert verdict is Verdict.BREAK
            broken = True
        assert checker.seq == log[held]
    assert checker.counts.unexplained == int(broken)
    checker.snapshot(EPOCH, log[-1])
    assert not checker.waiting
    assert checker.incr(EPOCH, log[-1] + 5, log[-1]) is Verdict.APPLIED


@given(logs, st.data())
def test_a_position_between_two_records_is_a_valid_place_to_resume(
    log: list[int], data: st.DataObject
) -> None:
    asked = data.draw(st.integers(1, log[-1] - 1))
    checker = ChainChecker(asked, EPOCH)
    for index, seq in enumerate(log):
        if seq > asked:
            assert checker.incr(EPOCH, seq, prev_of(log, index)) is Verdict.APPLIED
    assert checker.counts.breaks == 0


def test_a_claimed_position_does_not_hide_a_hole_behind_it() -> None:
    checker = ChainChecker(10, EPOCH)
    assert checker.incr(EPOCH, 30, 20) is Verdict.BREAK


def test_another_epoch_asks_for_a_resync_and_is_a_break_that_explains_itself() -> None:
    checker = ChainChecker()
    checker.snapshot(EPOCH, 10)
    verdict = checker.incr(EPOCH + 1, 11, 10)
    assert verdict is Verdict.NEW_EPOCH
    assert verdict.asks_resync
    assert (checker.counts.breaks, checker.counts.unexplained) == (1, 0)


def test_a_reset_is_a_link_of_the_chain() -> None:
    checker = ChainChecker()
    checker.incr(EPOCH, 10, None)
    assert checker.reset(EPOCH, 15, 10) is Verdict.RESET
    assert checker.incr(EPOCH, 16, 15) is Verdict.APPLIED
    assert checker.counts.breaks == 0
    assert checker.counts.resets == 1


def test_a_reset_into_another_epoch_is_no_break() -> None:
    checker = ChainChecker()
    checker.incr(EPOCH, 10, None)
    assert checker.reset(EPOCH + 1, 3, 10) is Verdict.RESET
    assert checker.incr(EPOCH + 1, 4, 3) is Verdict.APPLIED
    assert checker.counts.breaks == 0


def test_a_record_lost_just_before_a_reset_is_a_break() -> None:
    checker = ChainChecker()
    checker.incr(EPOCH, 10, None)
    assert checker.reset(EPOCH, 15, 12) is Verdict.RESET
    assert checker.counts.unexplained == 1


def test_an_old_reset_does_not_move_the_position_back() -> None:
    checker = ChainChecker()
    checker.incr(EPOCH, 10, None)
    assert checker.reset(EPOCH, 9, 8) is Verdict.DUPLICATE
    assert checker.seq == 10


def test_a_reset_ends_the_wait_for_a_snapshot() -> None:
    checker = ChainChecker()
    checker.incr(EPOCH, 10, None)
    checker.incr(EPOCH, 12, 11)
    assert checker.reset(EPOCH, 13, 12) is Verdict.RESET
    assert checker.incr(EPOCH, 14, 13) is Verdict.APPLIED
    assert checker.counts.breaks == 1


def test_a_snapshot_ahead_of_what_is_held_is_an_announced_jump() -> None:
    checker = ChainChecker()
    checker.snapshot(EPOCH, 10)
    checker.snapshot(EPOCH, 20)
    assert (checker.counts.snapshots, checker.counts.skipped, checker.counts.breaks) == (2, 1, 0)


def test_a_lost_last_message_is_found_by_the_heartbeat_after_one_interval() -> None:
    checker = ChainChecker()
    checker.incr(EPOCH, 10, None)
    assert checker.head(11, now=0.0, heartbeat=1.0) is None
    assert checker.head(11, now=1.0, heartbeat=1.0) is None
    assert checker.head(11, now=2.0, heartbeat=1.0) is Verdict.BEHIND
    assert checker.waiting
    assert checker.head(12, now=9.0, heartbeat=1.0) is None


@given(st.lists(st.integers(1, 5), min_size=1, max_size=50))
def test_a_subscriber_that_keeps_up_within_a_heartbeat_is_never_behind(steps: list[int]) -> None:
    checker = ChainChecker()
    checker.incr(EPOCH, 1, None)
    head = 1
    for tick, step in enumerate(steps):
        new = head + step
        # Heartbeats come when the newest record is still on its way.
        assert checker.head(new, now=float(tick), heartbeat=0.5) is None
        assert checker.incr(EPOCH, new, head) is Verdict.APPLIED
        head = new
    assert checker.counts.breaks == 0


def test_a_new_connection_goes_on_from_what_was_held_before_the_break() -> None:
    checker = ChainChecker()
    checker.incr(EPOCH, 10, None)
    checker.incr(EPOCH, 12, 11)
    checker.reconnected()
    assert not checker.waiting
    assert checker.incr(EPOCH, 11, 10) is Verdict.APPLIED
    assert checker.incr(EPOCH, 12, 11) is Verdict.APPLIED


def test_a_position_the_server_cannot_go_on_from_is_forgotten() -> None:
    checker = ChainChecker(10, EPOCH)
    checker.forget()
    assert checker.incr(EPOCH + 1, 20, 19) is Verdict.APPLIED


@pytest.mark.parametrize("from_seq", [None, 0])
def test_holding_nothing_the_first_record_starts_the_chain(from_seq: int | None) -> None:
    checker = ChainChecker(from_seq)
    assert checker.incr(EPOCH, 500, 499) is Verdict.APPLIED
