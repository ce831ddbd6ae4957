"""Open gaps: how they shrink, what an answer denies, and who is asked next."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.subjects import StreamKey
from services.common.wire import LateBody
from services.ingestor.integrity.open_gaps import (
    MAX_OPEN,
    LateSchedule,
    Range,
    as_ranges,
    denied,
    within,
    without,
)
from services.ingestor.integrity.sequencer import Gap
from services.ingestor.streams.late import OpenTrades
from services.ingestor.streams.raw_writer import RawStreamWriter
from services.ingestor.testing import Counts, RawLog
from services.ingestor.venues.base import TradeRow

KEY = StreamKey("coinbase", "trades", "BTC-USD")
NOW = 1_790_000_000_000_000
HOUR = 3_600_000_000

numbers = st.sets(st.integers(1, 60))


def ranges_of(members: set[int]) -> list[Range]:
    found: list[Range] = []
    for number in sorted(members):
        if found and found[-1][1] == number - 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found


def members(ranges: list[Range]) -> set[int]:
    return {number for first, last in ranges for number in range(first, last + 1)}


@given(numbers, numbers)
def test_ranges_are_sets_of_ids(held: set[int], taken: set[int]) -> None:
    assert members(without(ranges_of(held), ranges_of(taken))) == held - taken


@given(numbers, st.integers(1, 60), st.integers(1, 60))
def test_a_part_of_ranges_is_what_lies_between(held: set[int], first: int, last: int) -> None:
    expected = {number for number in held if first <= number <= last}
    assert members(within(ranges_of(held), first, last)) == expected


@given(st.sets(st.integers(1, 40)), st.integers(1, 40), st.integers(0, 20), st.integers(0, 40))
def test_only_what_an_answer_would_have_had_to_hold_is_denied(
    existing: set[int], first: int, size: int, limit: int
) -> None:
    """Cut at either end, as by a limit or a cache, an answer never denies what exists."""
    asked = Gap(first, first + size)
    whole = [number for number in sorted(existing) if first - 1 <= number <= asked.last + 1]
    for answer in (whole[:limit], whole[-limit:] if limit else []):
        absent = members(denied(asked, answer))
        assert absent <= set(range(asked.first, asked.last + 1))
        assert not absent & existing


def test_an_answer_with_both_neighbours_denies_what_is_between() -> None:
    assert denied(Gap(11, 14), [10, 12, 15]) == [(11, 11), (13, 14)]
    assert denied(Gap(11, 14), [15]) == []
    assert denied(Gap(11, 14), [10]) == []
    assert denied(Gap(11, 14), [13, 15]) == [(14, 14)]


class TestSchedule:
    def test_each_product_has_its_turn_and_pauses_grow_to_a_minute(self) -> None:
        schedule = LateSchedule()
        left = {"A": [(1, 5)], "B": [(7, 9)]}
        assert schedule.next(left, 0.0) is None
        asked: list[tuple[float, str]] = []
        now = 0.0
        while now < 600.0:
            now += 0.25
            ask = schedule.next(left, now)
            if ask is not None:
                asked.append((now, ask[0]))
                schedule.failed(ask[0], now)
        for product in left:
            times = [at for at, name in asked if name == product]
            pauses = [b - a for a, b in pairwise(times)]
            assert times[0] == pytest.approx(1.0, abs=0.5)
            assert pauses[0] < 2.0
            assert max(pauses) < 61.0
            assert pauses == sorted(pauses) or pauses[-1] >= 60.0

    def test_what_helps_is_asked_on_at_once_and_a_product_without_gaps_is_forgotten(self) -> None:
        schedule = LateSchedule()
        schedule.next({"A": [(1, 2000)]}, 0.0)
        ask = schedule.next({"A": [(1, 2000)]}, 1.0)
        assert ask == ("A", Gap(1003, 2000))
        schedule.answered("A", ask[1], [], 1.0, helped=True)
        assert schedule.next({"A": [(1, 1002)]}, 1.0) == ("A", Gap(5, 1002))
        assert schedule.next({}, 1.0) is None
        assert schedule.next({"A": [(1, 2)]}, 1.0) is None

    def test_small_gaps_close_to_each_other_share_a_question(self) -> None:
        schedule = LateSchedule()
        left = {"A": [(1, 1), (5000, 5001), (5100, 5100), (5200, 5210)]}
        schedule.next(left, 0.0)
        assert schedule.next(left, 2.0) == ("A", Gap(5000, 5210))

    def test_a_range_that_gets_no_answer_does_not_keep_those_below_from_being_asked(self) -> None:
        schedule = LateSchedule()
        left = {"A": [(1, 2), (5000, 5001)]}
        schedule.next(left, 0.0)
        asked = []
        now = 0.0
        for _ in range(4):
            now += 61.0
            ask = schedule.next(left, now)
            assert ask is not None
            asked.append(ask[1])
            schedule.answered("A", ask[1], [], now, helped=False)
        assert asked == [Gap(5000, 5001), Gap(1, 2), Gap(5000, 5001), Gap(1, 2)]

    def test_what_is_denied_twice_running_is_believed(self) -> None:
        schedule = LateSchedule()
        gap = Gap(1, 5)
        assert schedule.answered("A", gap, [(1, 3)], 0.0, helped=False) == []
        assert schedule.answered("A", gap, [(2, 5)], 9.0, helped=False) == [(2, 3)]
        assert schedule.answered("A", gap, [(1, 1)], 10.0, helped=False) == []
        assert schedule.answered("A", gap, [], 20.0, helped=False) == []
        assert schedule.answered("A", gap, [(1, 1)], 30.0, helped=False) == []


class Bench:
    def __init__(self) -> None:
        self.log = RawLog()
        self.counts = Counts()
        self.writer = RawStreamWriter(KEY, "test", self.log.offer, epoch=1, seq=10)
        self.open = OpenTrades(self.writer, self.counts)

    def gap(self, first: int, last: int, ts: int = NOW) -> None:
        from_ = self.open.with_gap(first, last, ts)
        missed = from_[-1].missed
        assert self.writer.gap("gap", missed, ts, from_)

    def bodies(self) -> list[LateBody]:
        return [msgspec.json.decode(r.body, type=LateBody) for r in self.log.of("late")]


def rows(*ids: int) -> list[TradeRow]:
    return [TradeRow(number, NOW, b'{"trade_id":%d}' % number) for number in ids]


def test_what_is_found_late_names_its_gap_and_what_is_still_missing() -> None:
    bench = Bench()
    bench.gap(11, 15)
    bench.gap(18, 19)
    assert bench.open.found(rows(12, 13, 17, 18), NOW) == 3
    first, second = bench.bodies()
    assert (first.missed.from_, first.missed.to, first.missed.count) == (11, 15, 5)
    assert [bytes(row) for row in first.messages] == [b'{"trade_id":12}', b'{"trade_id":13}']
    assert [(each.from_, each.to) for each in first.open] == [(11, 11), (14, 15)]
    assert [(each.from_, each.to) for each in second.open] == [(19, 19)]
    assert bench.open.left == [(11, 11), (14, 15), (19, 19)]
    assert bench.log.seqs("late") == [19, 19]
    assert bench.counts.lates == {"found": 3}


def test_a_broker_without_room_leaves_the_gap_open() -> None:
    bench = Bench()
    bench.gap(11, 12)
    bench.log.away = True
    assert bench.open.found(rows(11, 12), NOW) == 0
    assert bench.open.left == [(11, 12)]
    bench.log.away = False
    assert bench.open.found(rows(11, 12), NOW) == 2
    assert bench.open.gaps == ()


def test_gaps_expire_by_when_they_were_announced() -> None:
    bench = Bench()
    bench.gap(11, 12, NOW)
    bench.gap(13, 14, NOW + 2 * HOUR)
    assert bench.open.expire(NOW + HOUR, NOW + 3 * HOUR) == 2
    (body,) = bench.bodies()
    assert (body.reason, body.open) == ("expired", [])
    assert [(each.from_, each.to) for each in body.lost] == [(11, 12)]
    assert bench.open.left == [(13, 14)]


def test_many_late_trades_are_written_in_records_of_bounded_size() -> None:
    bench = Bench()
    bench.gap(11, 1010)
    assert bench.open.found(rows(*range(11, 1011)), NOW) == 1000
    assert [len(body.messages) for body in bench.bodies()] == [200] * 5
    assert bench.bodies()[-1].open == []


def test_the_number_of_open_gaps_is_bounded_and_the_oldest_is_given_up_in_writing() -> None:
    bench = Bench()
    for number in range(MAX_OPEN + 3):
        bench.gap(11 + 2 * number, 11 + 2 * number)
    assert len(bench.open.gaps) == MAX_OPEN
    assert [body.reason for body in bench.bodies()] == ["too_many"] * 3
    assert bench.counts.lates == {"too_many": 3}


def test_what_is_open_is_written_again_for_a_restart_after_retention() -> None:
    bench = Bench()
    bench.gap(11, 12)
    bench.writer.frame(13, b"{}", NOW)
    assert bench.log.records[-1].open_at == (12, 0)
    bench.open.restate(NOW + HOUR)
    bench.writer.frame(14, b"{}", NOW)
    assert bench.bodies()[0].reason == "open"
    assert bench.log.records[-1].open_at == (13, 1)
    assert bench.log.of("late")[0].open_gaps is not None


# ---------------------------------------------------------------------- edges of the schedule


def asked(schedule: LateSchedule, left: list[Range], now: float) -> Gap | None:
    found = schedule.next({"A": left}, now)
    return None if found is None else found[1]


def due(schedule: LateSchedule, now: float) -> float:
    """The second, from `now` on, at which the product is asked."""
    return next(
        second for second in (now + n for n in range(200)) if asked(schedule, [(5, 9)], second)
    )


def test_numbers_beside_each_other_are_one_range() -> None:
    assert as_ranges([1, 2, 4, 5, 6, 8]) == [(1, 2), (4, 6), (8, 8)]


def test_pauses_double_up_to_a_minute_and_begin_anew_with_an_answer_that_helps() -> None:
    schedule = LateSchedule()
    assert due(schedule, 0) == 1
    now, pauses = 1.0, []
    for _ in range(9):
        schedule.failed("A", now)
        pauses.append(due(schedule, now) - now)
        now += pauses[-1]
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    schedule.answered("A", Gap(5, 9), [], now, helped=True)
    assert due(schedule, now) == now
    schedule.answered("A", Gap(5, 9), [(5, 9)], now, helped=False)
    assert due(schedule, now) == now + 1


def test_only_two_denials_running_are_believed_and_then_it_is_asked_anew() -> None:
    schedule = LateSchedule()
    told = [
        schedule.answered("A", Gap(5, 9), absent, 0, helped=False)
        for absent in ([(5, 9)], [(7, 12)], [(7, 9)], [(7, 9)], [], [(7, 9)])
    ]
    assert told == [[], [(7, 9)], [], [(7, 9)], [], []]


def test_below_an_answer_that_did_not_help_is_asked_next_and_then_from_the_top() -> None:
    schedule = LateSchedule()
    left = [(0, 3), (10, 12)]
    assert asked(schedule, left, 0) is None
    schedule.answered("A", Gap(10, 12), [], 0, helped=False)
    assert asked(schedule, left, 1) == Gap(0, 3)
    schedule.answered("A", Gap(0, 3), [], 1, helped=False)
    assert asked(schedule, left, 9) == Gap(0, 12)
    assert asked(schedule, [(0, 3)], 9) == Gap(0, 3)
    schedule.answered("A", Gap(9, 12), [], 9, helped=False)
    assert asked(schedule, [(5, 9)], 99) == Gap(5, 8)


@pytest.mark.parametrize(("high", "first"), [(2, 900), (3, 3)])
def test_ranges_that_reach_into_a_page_come_with_it(high: int, first: int) -> None:
    schedule = LateSchedule()
    left = [(1, high), (900, 1000)]
    asked(schedule, left, 0)
    assert asked(schedule, left, 1) == Gap(first, 1000)


def test_a_call_that_failed_for_a_product_nobody_asked_for_puts_it_off_all_the_same() -> None:
    schedule = LateSchedule()
    schedule.failed("A", 5.0)
    assert asked(schedule, [(5, 9)], 5.5) is None
    assert asked(schedule, [(5, 9)], 6.0) == Gap(5, 9)
