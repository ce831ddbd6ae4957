"""What the gate withholds of a product's messages, and what confirms it."""

from __future__ import annotations

from itertools import combinations_with_replacement

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.wire import LateBody
from services.ingestor.integrity.sequencer import Gap
from services.ingestor.streams import Want
from services.ingestor.streams.gate import IMPLAUSIBLE, Gate
from services.ingestor.testing import Counts, RawLog
from services.ingestor.tests.test_product_streams import NOW, SECOND, Bench
from services.ingestor.venues.base import Event, Kind, OrderAction, OrderEvent, Quote, TradeRow

# ---- the gate


class GateBench:
    def __init__(self, trade_id: int = 10, sequence: int = 100, at: int = 0) -> None:
        self.parked: list[bytes] = []
        self.reasons: set[str] = set()
        self.gate = Gate(trade_id, sequence, self._park, at)
        self.admitted: list[Event] = []

    def _park(self, reason: str, body: bytes, _ts: int) -> None:
        self.reasons.add(reason)
        self.parked.append(body)

    def feed(self, kind: Kind, number: int, *, time: int = NOW, trade_id: int = 0) -> None:
        event = Event(kind, "BTC-USD", number, time, trade_id)
        found = self.gate.admit(event, b"%d" % number, NOW)
        self.admitted += [arrived.event for arrived in found]


@given(
    steps=st.lists(st.integers(1, 3), min_size=1, max_size=40),
    jumps=st.sets(st.integers(0, 39), max_size=8),
    wild=st.dictionaries(st.integers(0, 39), st.integers(0, 10**6), max_size=6),
)
def test_every_real_trade_is_passed_on_in_order_and_no_wild_one(
    steps: list[int], jumps: set[int], wild: dict[int, int]
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
        number += 50_000 if at in jumps else step
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


def test_a_ticker_far_ahead_comes_with_the_second_heartbeat_that_confirms_it() -> None:
    bench = GateBench()
    bench.feed(Kind.TICKER, 500_000, trade_id=11)
    assert bench.admitted == []
    bench.feed(Kind.HEARTBEAT, 500_040, trade_id=11)
    assert [event.number for event in bench.admitted] == [0], "a heartbeat without its mark"
    bench.feed(Kind.HEARTBEAT, 500_080, time=NOW + SECOND, trade_id=11)
    assert [event.kind for event in bench.admitted[1:]] == [Kind.TICKER, Kind.HEARTBEAT]
    assert bench.admitted[-1].number == 500_080


def test_a_numbering_that_jumps_costs_no_trade() -> None:
    """It begins anew far above: all of a busy product's trades come with the second heartbeat."""
    bench = GateBench()
    real = range(10**9, 10**9 + 400)
    for number in real:
        bench.feed(Kind.TRADE, number)
        if number % 200 == 199:
            bench.feed(Kind.HEARTBEAT, 101, time=NOW + number, trade_id=number)
    assert [event.number for event in bench.admitted if event.kind is Kind.TRADE] == list(real)
    assert bench.parked == []
    assert bench.gate.withheld == 0


def test_a_feed_that_was_away_goes_on_with_its_first_message() -> None:
    """As after a restart: what the largest rate of any product allows needs nobody's word."""
    bench = GateBench(at=NOW - 3_600 * SECOND)
    bench.feed(Kind.TRADE, 10 + 3_600_000)
    assert [event.number for event in bench.admitted] == [10 + 3_600_000]
    bench = GateBench(at=NOW - 3_600 * SECOND)
    bench.feed(Kind.TRADE, 10**9)
    assert bench.admitted == []


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


PAIRS = list(combinations_with_replacement((Kind.TRADE, Kind.TICKER, Kind.HEARTBEAT), 2))


@pytest.mark.parametrize("kinds", PAIRS)
def test_two_wild_messages_make_no_hole_also_where_nothing_real_comes_between_them(
    kinds: tuple[Kind, Kind],
) -> None:
    bench = Bench()
    bench.join()
    bench.feed(Kind.TRADE, 11)
    for at, kind in enumerate(kinds, 1):
        number = 10**9 + 11 + at if kind is Kind.TRADE else 120 + at
        bench.feed(kind, number, at=at * SECOND, trade_id=10**9 + 11 + at)
    for number in (12, 13, 14, 15, 16):
        bench.feed(Kind.TRADE, number, at=3 * SECOND + number)
    bench.feed(Kind.HEARTBEAT, 200, at=5 * SECOND, trade_id=16)
    assert bench.logs["trades"].seqs("frame", "gap") == [11, 12, 13, 14, 15, 16]
    assert {record.epoch for record in bench.logs["trades"].records} == {1}
    assert Want.TRADES not in bench.wants


def test_a_hole_that_wild_messages_made_costs_nothing_when_the_numbering_goes_on() -> None:
    """Two heartbeats and a trade that agree are believed: the numbering seems to begin anew."""
    bench = Bench()
    bench.join()
    trades = bench.streams.trades
    assert trades is not None
    bench.feed(Kind.TRADE, 11)
    # A product that rests: nothing real comes between them.
    for second in (3, 4):
        bench.feed(Kind.HEARTBEAT, 120, at=second * SECOND, trade_id=10**9 + 11)
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
