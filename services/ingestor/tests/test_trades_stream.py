from __future__ import annotations

from collections.abc import Sequence

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from services.common.wire import LateBody, Missed, OpenGap
from services.ingestor.integrity.sequencer import Gap
from services.ingestor.testing.streams import NOW, row
from services.ingestor.testing.streams import TradesBench as Bench


def test_trades_in_order_are_passed_on_as_they_are() -> None:
    bench = Bench()
    bench.stream.seed(10, NOW, NOW)
    bench.trade(11, 12)
    assert bench.frames == [11, 12]
    assert bytes(bench.log.of("frame")[0].body) == b'{"type":"match","trade_id":11}'
    assert bench.asked == 0


def test_the_last_trade_before_a_subscription_is_never_written_as_a_trade() -> None:
    """Otherwise a reconnect stores it twice (bbgo #1941)."""
    bench = Bench(held=10)
    bench.stream.seed(10, NOW, NOW)
    bench.stream.seed(10, NOW, NOW)
    assert bench.log.of("frame", "gap", "resync") == []


def test_a_gap_pauses_the_stream_until_exactly_the_missing_trades_are_there() -> None:
    bench = Bench(held=10)
    bench.trade(11, 14, 15)
    assert bench.frames == [11]
    assert bench.stream.missing() == Gap(12, 13)
    assert bench.refill(12) == 1
    assert bench.stream.missing() == Gap(13, 13)
    assert bench.refill(12, 13, 14) == 1
    assert bench.frames == [11, 12, 13, 14, 15]
    assert not bench.stream.healing
    bench.log.check_chain()


def test_a_resync_is_announced_and_its_end_says_how_it_was_healed() -> None:
    bench = Bench(held=10)
    bench.stream.state.clear("down", "test", NOW)
    bench.trade(13)
    bench.refill(11, 12)
    bodies = [bytes(record.body).decode() for record in bench.log.of("status")]
    assert "trades 11..12 missing (gap)" in bodies[1]
    assert '"live"' in bodies[2]
    assert "2 refilled, 0 late, 0 lost" in bodies[2]


def test_a_trade_that_only_came_late_heals_the_gap_without_a_call() -> None:
    bench = Bench(held=10)
    bench.trade(12, 11, 13)
    assert bench.frames == [11, 12, 13]
    assert bench.counts.outcomes == ["late"]


def test_duplicates_and_stragglers_are_dropped_and_counted() -> None:
    bench = Bench(held=10)
    bench.trade(11, 11, 9, 13, 13)
    assert bench.stream.duplicates == 3
    bench.refill(12)
    bench.trade(12)
    assert bench.frames == [11, 12, 13]


def test_a_lost_last_trade_is_found_by_the_second_heartbeat() -> None:
    bench = Bench(held=10)
    bench.stream.heartbeat(12, NOW)
    assert not bench.stream.healing
    bench.stream.heartbeat(12, NOW)
    assert bench.stream.missing() == Gap(11, 12)
    bench.refill(11, 12)
    assert bench.frames == [11, 12]
    assert bench.counts.gaps == ["tail"]


def test_a_heartbeat_without_a_last_trade_means_nothing() -> None:
    """Sandbox heartbeats have shown 0 (coinbasepro-python #356, go-coinbasepro #89)."""
    bench = Bench(held=10)
    bench.stream.heartbeat(0, NOW)
    bench.stream.heartbeat(0, NOW)
    assert not bench.stream.healing


def test_what_happened_while_the_process_was_away_is_closed_by_the_seed() -> None:
    bench = Bench(held=10)
    bench.stream.seed(12, NOW, NOW)
    bench.trade(13)
    assert bench.stream.missing() == Gap(11, 12)
    bench.refill(11, 12)
    assert bench.frames == [11, 12, 13]
    assert bench.counts.gaps == ["restart"]
    bench.stream.seed(15, NOW, NOW)
    assert bench.counts.gaps == ["restart", "reconnect"]


def test_what_cannot_be_healed_becomes_a_gap_record_and_the_stream_goes_on() -> None:
    """Each gap brings the trades before it, so that nobody who loses state is left without."""
    bench = Bench(held=10)
    bench.trade(13, 16)
    bench.stream.give_up(NOW, denied=True)
    bench.trade(17)
    gaps = bench.log.of("gap")
    state = b'{"type":"match","trade_id":13}'
    assert [bytes(gap.body) for gap in gaps] == [
        b'{"cause":"gap","missed":{"from":11,"to":12,"count":2},"message":[]}',
        b'{"cause":"gap","missed":{"from":14,"to":15,"count":2},"message":[%b]}' % state,
    ]
    assert [gap.seq for gap in gaps] == [12, 15]
    assert bench.log.seqs("frame", "gap") == [12, 13, 15, 16, 17]
    assert bench.stream.lost == 4
    bench.log.check_chain()


def test_a_second_hole_during_a_resync_is_found_and_counted_too() -> None:
    bench = Bench(held=10)
    bench.trade(12, 14)
    assert bench.counts.gaps == ["gap", "gap"]
    assert bench.stream.missing() == Gap(11, 13)
    bench.refill(11, 13)
    assert bench.frames == [11, 12, 13, 14]


def test_what_the_broker_had_no_room_for_is_written_later_in_order() -> None:
    bench = Bench(held=10)
    bench.log.away = True
    bench.trade(11, 12, 13)
    assert bench.stream.healing
    bench.log.away = False
    assert bench.stream.settle(NOW)
    assert bench.frames == [11, 12, 13]
    assert bench.counts.gaps == ["broker_away"]


def test_a_queue_that_is_full_is_let_go_and_fetched_instead() -> None:
    bench = Bench(held=10, max_held=3)
    bench.log.away = True
    bench.trade(*range(11, 18))
    assert bench.stream.held <= 3
    assert bench.counts.drops["queue_full"] == 6
    bench.log.away = False
    bench.stream.settle(NOW)
    assert bench.stream.missing() == Gap(11, 16)
    bench.refill(*range(11, 17))
    assert bench.frames == list(range(11, 18))


def test_a_new_numbering_opens_a_new_epoch_and_says_that_all_before_is_missing() -> None:
    bench = Bench(held=1_000)
    bench.trade(1_001)
    bench.trade(5, 6, 7, 8, late_us=5_000_000)
    records = bench.log.of("frame", "gap")
    assert [(record.kind, record.seq, record.prev) for record in records] == [
        ("frame", 1_001, 1_000),
        ("gap", 6, None),
        ("frame", 7, 6),
        ("frame", 8, 7),
    ]
    assert records[1].epoch > records[0].epoch


def numbers(ranges: Sequence[Missed]) -> list[int]:
    return [number for each in ranges for number in range(each.from_, each.to + 1)]


def gap_ranges(gap: OpenGap) -> list[tuple[int, int]]:
    return [(each.from_, each.to) for each in (gap.left if gap.left is not None else [gap.missed])]


class Traffic(RuleBasedStateMachine):
    """A venue that trades, a line that drops, repeats and reorders, a broker that goes away."""

    @initialize(known=st.booleans())
    def start(self, known: bool) -> None:
        self.top = 100
        self.bench = Bench(held=100 if known else None, max_held=15)
        self.in_flight: list[int] = []
        self.bench.stream.seed(100, NOW, NOW)

    @rule(count=st.integers(1, 4))
    def trades_happen(self, count: int) -> None:
        self.in_flight += range(self.top + 1, self.top + count + 1)
        self.top += count

    @precondition(lambda self: self.in_flight)
    @rule(at=st.integers(0, 100))
    def one_arrives(self, at: int) -> None:
        self.bench.trade(self.in_flight.pop(at % len(self.in_flight)))

    @precondition(lambda self: self.in_flight)
    @rule(at=st.integers(0, 100))
    def one_arrives_twice(self, at: int) -> None:
        number = self.in_flight.pop(at % len(self.in_flight))
        self.bench.trade(number, number)

    @precondition(lambda self: self.in_flight)
    @rule(at=st.integers(0, 100))
    def one_is_lost(self, at: int) -> None:
        self.in_flight.pop(at % len(self.in_flight))

    @precondition(lambda self: self.in_flight)
    @rule()
    def a_burst_arrives(self) -> None:
        self.bench.trade(*self.in_flight)
        self.in_flight.clear()

    @rule(back=st.integers(1, 20))
    def an_old_one_comes_again(self, back: int) -> None:
        self.bench.trade(max(1, min(self.top, 100 + back) - back))

    @rule()
    def heartbeat(self) -> None:
        self.bench.stream.heartbeat(self.top, NOW)

    @rule()
    def reconnect(self) -> None:
        self.in_flight.clear()
        self.bench.stream.seed(self.top, NOW, NOW)

    @rule(size=st.integers(1, 10))
    def the_healer_brings_some(self, size: int) -> None:
        missing = self.bench.stream.missing()
        if missing is not None:
            assert missing.last <= self.top
            last = min(missing.last, missing.first + size - 1)
            self.bench.refill(*range(missing.first, last + 1))

    @rule(away=st.booleans())
    def broker(self, away: bool) -> None:
        self.bench.log.away = away
        self.bench.stream.settle(NOW)

    @rule(denied=st.booleans())
    def the_healer_gives_up(self, denied: bool) -> None:
        self.bench.stream.give_up(NOW, denied=denied)

    @rule(at=st.integers(0, 100), size=st.integers(1, 5))
    def some_are_found_late(self, at: int, size: int) -> None:
        left = [
            number for low, high in self.bench.stream.open.left for number in range(low, high + 1)
        ]
        if left:
            at %= len(left)
            rows = [row(number) for number in left[at : at + size]]
            taken = self.bench.stream.open.found([*rows, row(self.top + 5)], NOW)
            assert self.bench.log.away or taken == len(rows)

    @rule(first=st.integers(101, 150), size=st.integers(1, 5))
    def some_are_denied(self, first: int, size: int) -> None:
        self.bench.stream.open.deny([(first, first + size)], NOW)

    @invariant()
    def the_log_is_one_chain_without_a_silent_hole(self) -> None:
        if not hasattr(self, "bench"):
            return
        self.bench.log.check_chain()
        expected = 101
        for record in self.bench.log.of("frame", "gap"):
            if record.kind == "frame":
                assert record.seq == expected
            else:
                assert record.seq >= expected
            expected = record.seq + 1

    @invariant()
    def every_trade_is_written_or_open_or_lost_for_good_and_only_one_of_them(self) -> None:
        if not hasattr(self, "bench"):
            return
        told = list(self.bench.frames)
        opened: list[tuple[int, int]] = []
        for record in self.bench.log.of("late", "gap"):
            listed = [gap_ranges(gap) for gap in record.open_gaps or ()]
            opened = sorted(part for ranges in listed for part in ranges)
            if record.kind == "late":
                late = msgspec.json.decode(record.body, type=LateBody)
                told += [msgspec.json.decode(row)["trade_id"] for row in late.messages]
                told += numbers(late.lost)
                assert late.open == [
                    part
                    for gap in record.open_gaps or ()
                    if gap.missed == late.missed
                    for part in gap.left or ()
                ]
        assert opened == self.bench.stream.open.left
        told += [number for low, high in opened for number in range(low, high + 1)]
        last = [record.seq for record in self.bench.log.of("frame", "gap")][-1:]
        assert sorted(told) == list(range(101, (last[0] if last else 100) + 1))

    @invariant()
    def the_newest_record_tells_what_is_open(self) -> None:
        if not hasattr(self, "bench") or not self.bench.log.records:
            return
        records = {(record.seq, record.sub): record for record in self.bench.log.records}
        newest = self.bench.log.records[-1]
        if newest.kind == "frame" and newest.open_at is not None:
            newest = records[newest.open_at]
        assert tuple(newest.open_gaps or ()) == self.bench.stream.open.gaps

    def teardown(self) -> None:
        """Whatever happened, everything known to exist can be brought home."""
        if not hasattr(self, "bench"):
            return
        bench = self.bench
        bench.log.away = False
        bench.stream.seed(self.top, NOW, NOW)
        while not bench.stream.settle(NOW):
            missing = bench.stream.missing()
            assert missing is not None
            bench.refill(*range(missing.first, missing.last + 1))
        last = [record.seq for record in bench.log.of("frame", "gap")]
        assert (last[-1] if last else 100) == self.top


TestTraffic = Traffic.TestCase
TestTraffic.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
