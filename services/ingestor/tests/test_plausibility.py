"""Numbers that no feed can have reached: one message is not believed, a second one is."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from services.common.wire import LateBody
from services.ingestor.integrity.plausibility import JumpGuard
from services.ingestor.integrity.sequencer import Gap
from services.ingestor.streams.gate import IMPLAUSIBLE, Gate
from services.ingestor.testing import Counts, RawLog
from services.ingestor.tests.test_product_streams import NOW, SECOND, Bench
from services.ingestor.venues.base import Event, Kind, OrderAction, OrderEvent, Quote, TradeRow

LIMIT = 100


def test_what_is_near_is_believed_and_a_jump_is_not_until_a_second_message_says_so() -> None:
    guard = JumpGuard(LIMIT, 1_000)
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
    guard = JumpGuard(LIMIT, 1_000)
    assert not guard.believes(10**9, ("trade", 10**9))
    assert not guard.believes(10**9, ("trade", 10**9))
    assert guard.believes(10**9, ("heartbeat", 7))


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
    guard = JumpGuard(LIMIT, 1_000)
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


# ---- the gate


class GateBench:
    def __init__(self, trade_id: int = 10, sequence: int = 100) -> None:
        self.parked: list[bytes] = []
        self.reasons: set[str] = set()
        self.gate = Gate(trade_id, sequence, self._park)
        self.admitted: list[Event] = []

    def _park(self, reason: str, body: bytes, _ts: int) -> None:
        self.reasons.add(reason)
        self.parked.append(body)

    def feed(self, kind: Kind, number: int, *, time: int = NOW, trade_id: int = 0) -> None:
        event = Event(kind, "BTC-USD", number, time, trade_id)
        found = self.gate.admit(event, b"%d" % number, NOW)
        self.admitted += [arrived.event for arrived in found]


@given(
    steps=st.lists(st.integers(1, 3) | st.just(50_000), min_size=1, max_size=40),
    wild=st.dictionaries(st.integers(0, 39), st.integers(0, 10**6), max_size=6),
)
def test_every_real_trade_is_passed_on_in_order_and_no_wild_one(
    steps: list[int], wild: dict[int, int]
) -> None:
    """A feed that loses and jumps, with single broken ids far from each other in between."""
    bench = GateBench()
    real: list[int] = []
    broken: set[int] = set()
    number = 10
    for at, step in enumerate(steps):
        if at in wild:
            claim = 10**9 * (at + 1) + wild[at]
            broken.add(claim)
            bench.feed(Kind.TRADE, claim)
        number += step
        real.append(number)
        bench.feed(Kind.TRADE, number)
        if at % 5 == 4:
            bench.feed(Kind.HEARTBEAT, 100, time=NOW + at * SECOND, trade_id=number)
    for beat in range(3):
        bench.feed(Kind.HEARTBEAT, 100, time=NOW + (100 + beat) * SECOND, trade_id=number)
    passed = [event.number for event in bench.admitted if event.kind is Kind.TRADE]
    assert passed == real
    assert {int(body) for body in bench.parked} == broken
    assert len(bench.parked) == len(broken)
    assert bench.gate.withheld == 0
    assert bench.reasons <= {IMPLAUSIBLE}


@given(
    wild=st.sets(st.integers(0, 39)),
    beats=st.sets(st.integers(0, 39)),
    tickers=st.sets(st.integers(0, 39)),
)
def test_what_breaks_numbers_always_alike_passes_no_wild_one_on(
    wild: set[int], beats: set[int], tickers: set[int]
) -> None:
    """As a broken sender does: the same step for trades, tickers and heartbeats."""
    bench = GateBench()
    for number in range(11, 51):
        step = 10**9 if number - 11 in wild else 0
        if step and number - 11 in beats:
            bench.feed(Kind.HEARTBEAT, 100, time=NOW + number, trade_id=number - 1 + step)
        elif step and number - 11 in tickers:
            bench.feed(Kind.TICKER, 100 + number, trade_id=number + step)
        elif step:
            bench.feed(Kind.TRADE, number + step)
        bench.feed(Kind.TRADE, number)
    passed = [event.number for event in bench.admitted if event.kind is Kind.TRADE]
    assert passed == list(range(11, 51))
    assert max(event.trade_id for event in bench.admitted) < 10**9


def test_a_heartbeat_with_wild_marks_is_passed_on_without_them() -> None:
    bench = GateBench()
    bench.feed(Kind.HEARTBEAT, 10**12, trade_id=10**12)
    bench.feed(Kind.HEARTBEAT, 130, time=NOW + 1, trade_id=11)
    assert [(event.number, event.trade_id) for event in bench.admitted] == [(0, 0), (130, 11)]


def test_a_ticker_with_a_wild_trade_id_is_passed_on_as_one_without() -> None:
    bench = GateBench()
    bench.feed(Kind.TICKER, 120, trade_id=10**9)
    assert [(event.number, event.trade_id) for event in bench.admitted] == [(120, 0)]


def test_a_ticker_far_ahead_comes_with_the_heartbeat_that_confirms_it() -> None:
    bench = GateBench()
    bench.feed(Kind.TICKER, 500_000, trade_id=11)
    assert bench.admitted == []
    bench.feed(Kind.HEARTBEAT, 500_040, trade_id=11)
    assert [event.kind for event in bench.admitted] == [Kind.TICKER, Kind.HEARTBEAT]


def test_an_orders_message_with_a_wild_sequence_waits() -> None:
    bench = GateBench()
    for sequence in (101, 10**12, 102):
        order = OrderEvent(sequence, NOW, OrderAction.NONE)
        event = Event(Kind.ORDER, "BTC-USD", sequence, NOW, 0, "", order)
        bench.admitted += [a.event for a in bench.gate.admit(event, b"x", NOW)]
    assert [event.number for event in bench.admitted] == [101, 102]


def test_a_time_of_another_age_is_none() -> None:
    bench = GateBench()
    bench.feed(Kind.TRADE, 11, time=9_000_000_000_000_000)
    assert bench.admitted[0].time == 0


# ---- the streams behind it


def test_a_wild_trade_makes_no_hole_and_drops_nothing_real() -> None:
    bench = Bench()
    bench.join()
    bench.feed(Kind.TRADE, 11)
    bench.feed(Kind.TRADE, 10**9)
    for number in (12, 13, 14, 15):
        bench.feed(Kind.TRADE, number, at=2 * SECOND * number)
    assert bench.logs["trades"].seqs("frame", "gap") == [11, 12, 13, 14, 15]
    assert {record.epoch for record in bench.logs["trades"].records} == {1}
    assert bench.wants == []


def test_a_hole_that_two_wild_messages_made_costs_nothing_when_the_numbering_goes_on() -> None:
    """Two that agree are believed, so what follows seems to be a numbering that began anew."""
    bench = Bench()
    bench.join()
    trades = bench.streams.trades
    assert trades is not None
    bench.feed(Kind.TRADE, 11)
    # A product that rests: nothing real comes between the two.
    bench.feed(Kind.TICKER, 120, at=4 * SECOND, trade_id=10**9 + 12)
    bench.feed(Kind.TRADE, 10**9 + 12, at=4 * SECOND)
    hole = trades.missing()
    assert hole == Gap(12, 10**9 + 11)
    trades.give_up(NOW + 4 * SECOND, upto=hole.last - 50_000)
    for number in (13, 14):
        bench.feed(Kind.TRADE, number, at=4 * SECOND + number)
    bench.feed(Kind.TRADE_SEED, 18, at=5 * SECOND)
    for number in (19, 20):
        bench.feed(Kind.TRADE, number, at=5 * SECOND + number)
    log: RawLog = bench.logs["trades"]
    assert log.seqs("frame") == [11, 19, 20]
    assert [len(body.messages) for body in lates(log)] == [1, 1, 0]
    assert trades.open.left == [(12, 12), (15, 18)]
    assert log.of("gap")[-1].open_gaps == list(trades.open.gaps), "a restart asks for them too"
    rows = [TradeRow(number, NOW, b"{}") for number in range(11, 20)]
    assert trades.open.found(rows, NOW + 6 * SECOND) == 5
    assert trades.open.gaps == ()


def lates(log: RawLog) -> list[LateBody]:
    return [msgspec.json.decode(record.body, type=LateBody) for record in log.of("late")]


def test_a_wild_ticker_silences_no_other() -> None:
    bench = Bench()
    bench.join()
    bench.feed(Kind.TICKER, 10**12, trade_id=11)
    bench.feed(Kind.TICKER, 120, trade_id=11)
    bench.feed(Kind.TICKER, 140, trade_id=12)
    assert bench.logs["ticker"].seqs("frame") == [100, 120, 140]


def test_a_heartbeat_with_a_wild_last_trade_makes_no_hole() -> None:
    bench = Bench()
    bench.join()
    for second in range(4):
        wild = 10**9 if second in (0, 2) else 10
        bench.feed(Kind.HEARTBEAT, 101 + second, at=second * SECOND, trade_id=wild)
    assert bench.wants == []
    assert bench.counts.gaps == []


def test_a_snapshot_with_a_wild_time_does_not_make_every_update_old() -> None:
    bench = Bench()
    bench.feed(Kind.BOOK_SNAPSHOT, at=0)
    event = Event(Kind.BOOK_SNAPSHOT, "BTC-USD", 0, NOW + 3_600 * SECOND)
    bench.streams.feed(event, b"{}", NOW + 1)
    bench.feed(Kind.BOOK_UPDATE, at=2)
    bench.feed(Kind.BOOK_UPDATE, at=3)
    log: RawLog = bench.logs["book"]
    assert [record.kind for record in log.of("resync", "frame")] == [
        *("resync", "resync", "frame", "frame")
    ]
    assert log.records[-1].seq < NOW + SECOND


def test_an_update_with_a_wild_time_is_passed_on_and_those_after_it_too() -> None:
    bench = Bench()
    bench.join()
    event = Event(Kind.BOOK_UPDATE, "BTC-USD", 0, 7_258_118_400_000_000)
    bench.streams.feed(event, b"{}", NOW + 1)
    bench.feed(Kind.BOOK_UPDATE, at=2)
    log: RawLog = bench.logs["book"]
    assert len(log.of("frame")) == 2
    assert log.records[-1].seq < NOW + SECOND
    counts: Counts = bench.counts
    assert counts.gaps == []
    assert bench.wants == []


def test_a_clock_of_ours_that_is_slow_costs_one_time_only() -> None:
    """Two messages far ahead that agree are believed: it is our clock that is wrong."""
    bench = Bench()
    bench.join()
    for at in range(1, 6):
        event = Event(Kind.BOOK_UPDATE, "BTC-USD", 0, NOW + 600 * SECOND + at)
        bench.streams.feed(event, b"%d" % at, NOW + at)
    log: RawLog = bench.logs["book"]
    assert len(log.of("frame")) == 5
    assert log.records[-1].seq == NOW + 600 * SECOND + 5


def test_a_fetched_ticker_with_a_wild_trade_id_is_asked_for_again() -> None:
    bench = Bench()
    bench.join()
    for second in range(2):
        bench.feed(Kind.HEARTBEAT, 101 + second, at=second * SECOND, trade_id=12)
    ticker = bench.streams.ticker
    assert ticker is not None
    assert not ticker.refreshed(Quote(10**9, NOW, b"{}"), NOW)
    assert ticker.behind
    assert ticker.refreshed(Quote(12, NOW, b"{}"), NOW)
    assert not ticker.behind


# ---------------------------------------------------------------------- edges


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
        guard = JumpGuard(LIMIT, 1_000)
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
