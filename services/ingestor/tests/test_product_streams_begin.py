"""A product's streams: what the log holds when they begin, and a book that is made of orders."""

from __future__ import annotations

from decimal import Decimal

import pytest

from services.common.subjects import StreamKey
from services.ingestor.integrity.sequencer import ORDERS_RULE, Numbering, Sequencer
from services.ingestor.streams import OrdersStream, ProductStreams, TickerStream, TradesStream, Want
from services.ingestor.streams.gate import IMPLAUSIBLE
from services.ingestor.streams.raw_writer import RawStreamWriter
from services.ingestor.streams.stream import StreamStateTracker
from services.ingestor.testing import Counts, RawLog
from services.ingestor.tests.test_product_streams import NOW, SECOND, Bench
from services.ingestor.venues.base import Event, Kind, OrderAction, OrderEvent, OrderImage


def writer(channel: str, log: RawLog, seq: int | None, heard: int = 0) -> RawStreamWriter:
    key = StreamKey("coinbase", channel, "BTC-USD")
    return RawStreamWriter(key, "test", log.offer, epoch=1, seq=seq, heard=heard)


def trades_alone(wants: list[Want]) -> tuple[ProductStreams, RawLog]:
    log = RawLog()
    out = writer("trades", log, None)
    trades = TradesStream(
        out,
        StreamStateTracker(out, NOW),
        Sequencer(Numbering.CONTIGUOUS),
        lambda: wants.append(Want.TRADES),
        Counts(),
    )
    return ProductStreams("BTC-USD", trades, None, None, wants.append), log


class Restarted:
    """Trades at 10^6, a ticker at 10^8; each stream's last record as old as is said."""

    def __init__(self, heard: tuple[int, int]) -> None:
        self.logs = {"trades": RawLog(), "ticker": RawLog()}
        self.parked: list[tuple[str, bytes, int]] = []
        trades = writer("trades", self.logs["trades"], 10**6, heard[0])
        ticker = writer("ticker", self.logs["ticker"], 10**8, heard[1])
        self.streams = ProductStreams(
            "BTC-USD",
            TradesStream(
                trades,
                StreamStateTracker(trades, NOW),
                Sequencer(Numbering.CONTIGUOUS, 10**6, NOW),
                lambda: None,
                Counts(),
            ),
            None,
            TickerStream(
                ticker,
                StreamStateTracker(ticker, NOW),
                Sequencer(Numbering.INCREASING, 10**8, NOW),
                lambda: None,
                Counts(),
            ),
            lambda _want: None,
            lambda *parked: self.parked.append(parked),
        )
        self.streams.connected(NOW)

    def feed(self, kind: Kind, number: int) -> int:
        """How many wait then."""
        self.streams.feed(Event(kind, "BTC-USD", number, NOW), b"%d" % number, NOW + 1)
        return int(self.streams.report()["withheld"])


def test_after_a_restart_the_logs_numbers_are_what_is_known() -> None:
    restarted = Restarted((NOW, NOW))
    assert restarted.feed(Kind.TRADE, 10**6 + 1_002) == 1
    assert restarted.feed(Kind.TICKER, 10**8 + 10_002) == 2
    assert restarted.feed(Kind.TRADE, 10**6 + 1) == 1
    assert restarted.parked == [(IMPLAUSIBLE, b"%d" % (10**6 + 1_002), NOW + 1)]
    assert restarted.feed(Kind.TICKER, 10**8 + 1) == 0


def test_of_two_streams_records_the_newer_one_says_how_long_nothing_was_heard() -> None:
    hour = NOW - 3_600 * SECOND
    assert Restarted((hour, hour)).feed(Kind.TRADE, 10**6 + 3_600_000) == 0
    assert Restarted((hour, hour)).feed(Kind.TICKER, 10**8 + 36_000_000) == 0
    assert Restarted((hour, NOW)).feed(Kind.TRADE, 10**6 + 3_600_000) == 1


# ---- a book that is made of orders


class OrdersBench:
    def __init__(self) -> None:
        self.log = RawLog()
        self.wants: list[Want] = []
        out = writer("book", self.log, None)
        self.book = OrdersStream(
            out,
            StreamStateTracker(out, NOW),
            Sequencer(ORDERS_RULE),
            lambda: self.wants.append(Want.BOOK),
            Counts(),
        )
        self.streams = ProductStreams("BTC-USD", None, self.book, None, self.wants.append)
        self.streams.connected(NOW)

    def feed(self, kind: Kind, sequence: int, at: int, order_id: str = "a") -> None:
        order = OrderEvent(sequence, NOW + at, OrderAction.OPEN, order_id, "buy", "5", Decimal(1))
        event = Event(kind, "BTC-USD", sequence, NOW + at, order=order)
        self.streams.feed(event, b'{"at":%d}' % at, NOW + at)


@pytest.mark.parametrize("kind", [Kind.ORDER, Kind.TRADE])
def test_orders_go_to_the_book_whatever_else_they_are(kind: Kind) -> None:
    bench = OrdersBench()
    bench.feed(kind, 100, 1)
    assert bench.wants == [Want.BOOK]
    assert bench.book.image(OrderImage(100, NOW, "", [], []), NOW + 2)
    bench.feed(kind, 101, 3, "b")
    (frame,) = bench.log.of("frame")
    assert (frame.seq, bytes(frame.body), frame.ts_recv) == (101, b'{"at":3}', NOW + 3)
    assert bench.book.messages == 2
    # Events without an order, and updates of another kind of book, are none of its own.
    for other in (Kind.TRADE, Kind.ORDER, Kind.BOOK_UPDATE, Kind.BOOK_SNAPSHOT):
        bench.streams.feed(Event(other, "BTC-USD", 101, NOW), b"{}", NOW)
    assert bench.book.messages == 2
    bench.streams.feed(Event(Kind.HEARTBEAT, "BTC-USD", 103, NOW), b"{}", NOW + 4)
    bench.streams.feed(Event(Kind.HEARTBEAT, "BTC-USD", 103, NOW), b"{}", NOW + 5)
    assert bench.wants == [Want.BOOK, Want.BOOK]


def test_a_book_of_orders_knows_the_sequence_too() -> None:
    bench = OrdersBench()
    bench.feed(Kind.ORDER, 100, 1)
    bench.feed(Kind.ORDER, 10**9, 2)
    assert bench.streams.report()["withheld"] == 1


def test_orders_are_nothing_to_a_book_of_updates() -> None:
    bench = Bench()
    bench.join()
    order = OrderEvent(101, NOW, OrderAction.NONE)
    for kind in (Kind.TRADE, Kind.ORDER):
        bench.streams.feed(Event(kind, "BTC-USD", 11, NOW, order=order), b"{}", NOW)
    assert bench.logs["trades"].seqs("frame") == [11]
    assert bench.wants == []
