"""The gate's limits: one message at each of them, and one beyond."""

from __future__ import annotations

import pytest

from services.ingestor.streams.gate import IMPLAUSIBLE, Gate
from services.ingestor.tests.test_product_streams import NOW, SECOND
from services.ingestor.venues.base import Event, Kind, OrderAction, OrderEvent

DAY = 86_400 * SECOND
HOUR = 3_600


class Bench:
    """A gate that knows trade 10^6 and sequence 10^8, as of `at`."""

    def __init__(
        self, trade_id: int | None = 10**6, sequence: int | None = 10**8, at: int | None = NOW
    ) -> None:
        self.parked: list[tuple[str, bytes, int]] = []
        known = (trade_id, sequence, lambda *parked: self.parked.append(parked))
        self.gate = Gate(*known) if at is None else Gate(*known, at)

    def feed(self, kind: Kind, number: int, *, ts: int = NOW, **more: int) -> list[Event]:
        return self.say(
            Event(kind, "BTC-USD", number, more.get("time", ts), more.get("trade_id", 0)), ts
        )

    def say(self, event: Event, ts: int = NOW) -> list[Event]:
        return [each.event for each in self.gate.admit(event, b"%d" % event.number, ts)]

    def order(self, sequence: int, *, ts: int = NOW, time: int = NOW) -> list[Event]:
        order = OrderEvent(sequence, time, OrderAction.NONE)
        return self.say(Event(Kind.ORDER, "BTC-USD", sequence, time, order=order), ts)


def test_without_a_time_nothing_is_allowed_for_silence() -> None:
    bench = Bench(at=None)
    assert bench.feed(Kind.TRADE, 10**6 + 1_001) == []
    assert bench.feed(Kind.TICKER, 10**8 + 10_001) == []
    assert bench.gate.withheld == 2


def test_one_message_is_believed_up_to_the_limit() -> None:
    assert Bench().feed(Kind.TRADE, 10**6 + 1_000)
    assert not Bench().feed(Kind.TRADE, 10**6 + 1_001)
    assert Bench().feed(Kind.TICKER, 10**8 + 10_000)
    assert not Bench().feed(Kind.TICKER, 10**8 + 10_001)
    assert Bench().order(10**8 + 10_000)
    assert not Bench().order(10**8 + 10_001)


def test_silence_allows_what_the_largest_rates_could_have_reached() -> None:
    """Whatever message names it; the time is when the message came."""
    trade, sequence = 10**6 + 1_000 + 1_000 * HOUR, 10**8 + 10_000 + 10_000 * HOUR
    later = NOW + HOUR * SECOND
    for beyond, believed in ((0, True), (1, False)):
        for kind in (Kind.TRADE, Kind.TRADE_SEED):
            assert bool(Bench().feed(kind, trade + beyond, ts=later)) is believed
        assert bool(Bench().feed(Kind.TICKER, sequence + beyond, ts=later)) is believed
        assert bool(Bench().order(sequence + beyond, ts=later)) is believed
        (ticker,) = Bench().feed(Kind.TICKER, 10**8, ts=later, trade_id=trade + beyond)
        assert ticker.trade_id == (trade if believed else 0)
        (beat,) = Bench().feed(Kind.HEARTBEAT, sequence + beyond, ts=later, trade_id=trade + beyond)
        assert (beat.number, beat.trade_id) == ((sequence, trade) if believed else (0, 0))


def test_no_trade_at_all_is_no_number_of_a_trade() -> None:
    """Else three of them began the numbering anew at 0, and what goes on would seem wild."""
    for kind, number in ((Kind.HEARTBEAT, 10**8 + 1), (Kind.TICKER, 10**8 + 1)):
        bench = Bench()
        for _ in range(3):
            (passed,) = bench.feed(kind, number, trade_id=0)
            assert passed.trade_id == 0
        assert bench.feed(Kind.TRADE, 10**6 + 1)


@pytest.mark.parametrize("kind", [Kind.HEARTBEAT, Kind.TICKER])
def test_the_first_trade_there_ever_was_is_one(kind: Kind) -> None:
    bench = Bench(trade_id=None)
    (passed,) = bench.feed(kind, 10**8 + 1, trade_id=1)
    assert passed.trade_id == 1
    assert not bench.feed(Kind.TRADE, 10**6), "far above the first"


def test_a_time_is_believed_up_to_a_day_ahead() -> None:
    for beyond in (0, 1):
        (event,) = Bench().feed(Kind.TRADE, 10**6 + 1, time=NOW + DAY + beyond)
        assert event.time == (0 if beyond else NOW + DAY)
        (event,) = Bench().order(10**8 + 1, time=NOW + DAY + beyond)
        assert event.order is not None
        assert (event.time, event.order.time) == ((0, 0) if beyond else (NOW + DAY,) * 2)
        assert event.order.sequence == 10**8 + 1


def test_so_many_wait_and_of_more_the_oldest_is_parked_as_it_came() -> None:
    bench = Bench()
    for at in range(512):
        assert not bench.feed(Kind.TRADE, 10**9 + at, ts=NOW + at)
    assert (bench.gate.withheld, bench.parked) == (512, [])
    bench.feed(Kind.TRADE, 10**9 + 512, ts=NOW + 512)
    assert bench.gate.withheld == 512
    assert bench.parked == [(IMPLAUSIBLE, b"%d" % 10**9, NOW)]


def test_what_nobody_confirms_any_more_is_parked_as_it_came() -> None:
    bench = Bench()
    bench.feed(Kind.TRADE, 10**9, ts=NOW + 5)
    assert bench.feed(Kind.TRADE, 10**6 + 1, ts=NOW + 9)
    assert bench.parked == [(IMPLAUSIBLE, b"%d" % 10**9, NOW + 5)]
