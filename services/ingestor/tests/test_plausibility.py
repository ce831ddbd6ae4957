"""Numbers that no feed can have reached: what it takes to believe them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.ingestor.integrity.plausibility import JumpGuard
from services.ingestor.tests.test_product_streams import NOW, SECOND, Bench
from services.ingestor.venues.base import Kind

LIMIT = 100


def test_what_is_near_is_believed_and_a_jump_is_not_until_a_second_message_says_so() -> None:
    guard = JumpGuard(LIMIT, 1_000, marks=0)
    assert guard.believes(1_100, "a")
    assert not guard.believes(10**9, "b")
    assert guard.believes(1_150, "c")
    assert not guard.believes(50_000, "d")
    assert guard.believes(50_001, "e")
    assert guard.known == 50_001
    assert not guard.believes(10**9 + 500, "f"), "far from the claim before"


def test_in_silence_the_market_may_have_moved_on() -> None:
    guard = JumpGuard(LIMIT, 1_000, per_s=50)
    assert not guard.believes(1_200, "a", NOW)
    assert guard.believes(1_050, "b", NOW)
    assert guard.believes(1_200, "c", NOW + SECOND)
    assert not guard.believes(2_000, "d", NOW + 2 * SECOND)


def test_tickers_of_a_quiet_product_need_no_heartbeats() -> None:
    """As in a recording without any: each is tens of thousands of steps after the last."""
    bench = Bench()
    bench.join()
    for minute in range(1, 6):
        bench.feed(
            Kind.TICKER, 100 + minute * 20_000, at=minute * 60 * SECOND, trade_id=10 + minute
        )
    assert len(bench.logs["ticker"].seqs("frame")) == 6


def test_the_same_message_twice_is_one_witness() -> None:
    guard = JumpGuard(LIMIT, 1_000, marks=0)
    assert not guard.believes(10**9, ("trade", 10**9))
    assert not guard.believes(10**9, ("trade", 10**9))
    assert guard.believes(10**9, ("heartbeat", 7))
    guard = JumpGuard(LIMIT, 1_000)
    assert not guard.believes(10**9, "a")
    for _ in range(3):
        assert not guard.believes(10**9, "one heartbeat", is_mark=True)
    assert guard.believes(10**9, "another one", is_mark=True)


def test_two_heartbeats_and_another_message_in_any_order_are_believed() -> None:
    for marks in ((True, True, False), (True, False, True), (False, True, True), (True,) * 3):
        guard = JumpGuard(LIMIT, 1_000)
        for at, is_mark in enumerate(marks[:2]):
            assert not guard.believes(10**9 + at, at, is_mark=is_mark)
        assert guard.believes(10**9 + 2, 2, is_mark=marks[2])
        assert guard.known == 10**9 + 2


def test_no_number_of_messages_replaces_heartbeats() -> None:
    """A sender breaks a thousand trades alike within a second."""
    guard = JumpGuard(LIMIT, 1_000)
    for number in range(10**9, 10**9 + 1_000):
        assert not guard.believes(number, number)
    assert guard.claims(10**9)
    assert guard.claims(10**9 + 999)
    assert not guard.believes(10**9 + 1_000, "first", is_mark=True)
    assert guard.believes(10**9 + 1_050, "second", is_mark=True)


def test_heartbeats_have_to_name_it_in_a_row() -> None:
    guard = JumpGuard(LIMIT, 1_000)
    assert not guard.believes(10**9, "a")
    assert not guard.believes(10**9, "broken", is_mark=True)
    assert guard.believes(1_000, "well", is_mark=True)
    guard.doubt()
    assert not guard.believes(10**9, "broken again", is_mark=True)
    assert guard.believes(10**9, "and again", is_mark=True)


def test_the_time_since_the_last_record_counts_after_a_restart() -> None:
    guard = JumpGuard(LIMIT, 1_000, per_s=50, at=NOW)
    assert not guard.believes(1_000 + LIMIT + 3_600 * 50 + 1, "a", NOW + 3_600 * SECOND)
    assert guard.believes(1_000 + LIMIT + 3_600 * 50, "b", NOW + 3_600 * SECOND)


def test_a_claim_that_marks_leave_aside_twice_is_forgotten() -> None:
    guard = JumpGuard(LIMIT, 1_000)
    guard.believes(10**9, "a")
    guard.doubt()
    assert guard.claims(10**9)
    guard.doubt()
    assert not guard.claims(10**9)
    assert not guard.believes(10**9 + 1, "b"), "nobody remembers the first"


def test_a_new_number_near_what_is_known_refutes_a_claim() -> None:
    """Else two broken numbers of one kind, seconds apart, make a hole of their size."""
    guard = JumpGuard(LIMIT, 1_000, marks=0)
    assert not guard.believes(10**9, "a")
    assert guard.believes(1_000, "a copy of what is known")
    assert guard.claims(10**9)
    assert guard.believes(1_001, "b")
    assert not guard.claims(10**9)
    assert not guard.believes(10**9 + 1, "c"), "nothing confirms it"
    assert guard.believes(10**9 + 2, "d")
    assert guard.known == 10**9 + 2


def test_a_numbering_that_begins_anew_is_followed_down() -> None:
    guard = JumpGuard(LIMIT, 10**9)
    assert all(guard.believes(number, number) for number in (5, 6, 7))
    assert guard.known == 7
    assert not guard.believes(10**9, "old")


@given(st.lists(st.integers(0, 2**53), max_size=300))
def test_what_is_remembered_is_bounded(numbers: list[int]) -> None:
    guard = JumpGuard(LIMIT, 0)
    for at, number in enumerate(numbers):
        guard.believes(number, at)
    assert len(guard._claims) <= 16
    assert all(len(claim.witnesses) <= 3 for claim in guard._claims)


def test_the_first_number_is_believed_whatever_it_is() -> None:
    guard = JumpGuard(LIMIT)
    assert not guard.reaches(5)
    assert guard.believes(5, "a")
    assert (guard.known, guard.reaches(105), guard.reaches(106)) == (5, True, False)


def test_one_message_is_believed_up_to_the_limit() -> None:
    assert JumpGuard(LIMIT, 1_000).believes(1_100, "a")
    assert not JumpGuard(LIMIT, 1_000).believes(1_101, "a")
    guard = JumpGuard(LIMIT, 1_000)
    assert guard.believes(1_000, "a", NOW)
    assert not guard.believes(1_101, "b", NOW + SECOND), "silence adds nothing without a rate"
    assert guard.claims(1_101)
    assert guard.believes(1_100, "c", NOW)
    assert not guard.claims(1_101), "refuted"


def test_silence_adds_whole_steps_from_when_a_number_was_believed() -> None:
    for later, number, believed in (
        (SECOND, 1_150, True),
        (SECOND, 1_151, False),
        (20_000, 1_101, True),
        (19_999, 1_101, False),
    ):
        guard = JumpGuard(LIMIT, 1_000, per_s=50)
        assert guard.believes(1_000, "a", NOW)
        assert guard.believes(number, "b", NOW + later) is believed


def test_a_witness_confirms_a_claim_that_is_no_farther_than_the_limit() -> None:
    for distance, believed in ((LIMIT, True), (-LIMIT, True), (LIMIT + 1, False)):
        guard = JumpGuard(LIMIT, 1_000, marks=0)
        assert not guard.believes(10**6, "a")
        assert not guard.believes(10**9, "other")
        assert guard.believes(10**6 + distance, "b") is believed
        assert guard.claims(10**6) is not believed
        assert guard.claims(10**9), "what is confirmed says nothing of another"
        if believed:
            assert guard.known == max(10**6, 10**6 + distance)


def test_sixteen_claims_are_remembered_and_the_oldest_goes() -> None:
    guard = JumpGuard(LIMIT, 1_000)
    numbers = [number * 10**6 for number in range(1, 18)]
    for number in numbers[:16]:
        guard.believes(number, number)
    assert all(guard.claims(number) for number in numbers[:16])
    guard.believes(numbers[16], "more")
    assert [guard.claims(number) for number in numbers] == [False, *[True] * 16]


def behind(guard: JumpGuard, count: int) -> None:
    """So many messages one farther below what is known than the limit."""
    for _ in range(count):
        assert guard.believes(10_000 - LIMIT - 1, "a")


def test_three_messages_in_a_row_far_below_begin_the_numbering_anew() -> None:
    guard = JumpGuard(LIMIT, 10_000)
    behind(guard, 2)
    assert guard.known == 10_000
    assert guard.believes(10_000, "b"), "in order"
    behind(guard, 2)
    assert guard.known == 10_000
    assert guard.believes(10_000 - LIMIT, "c"), "as far below as the limit is near"
    behind(guard, 2)
    assert guard.known == 10_000
    behind(guard, 1)
    assert guard.known == 10_000 - LIMIT - 1
    low = 10_000 - 3 * LIMIT
    for _ in range(2):
        guard.believes(low, "d")
    assert guard.known == 10_000 - LIMIT - 1
    guard.believes(low, "d")
    assert guard.known == low
