"""A product's streams: what is said of each, when and why; and products of fewer channels."""

from __future__ import annotations

import msgspec
import pytest

from services.common.wire import Missed, ResyncBody
from services.ingestor.streams import ProductStreams, Want
from services.ingestor.testing.streams import statuses
from services.ingestor.tests.test_product_streams import NOW, SECOND, SUSPECT, Bench
from services.ingestor.tests.test_product_streams_begin import trades_alone
from services.ingestor.venues.base import Event, Kind

EPOCH = NOW + 77


def said(bench: Bench, channel: str) -> list[tuple[str, str, int]]:
    return statuses(bench.logs[channel])


def test_each_stream_says_what_made_it_live() -> None:
    bench = Bench()
    bench.feed(Kind.TRADE_SEED, 10, at=1)
    bench.feed(Kind.BOOK_SNAPSHOT, at=2)
    bench.feed(Kind.TICKER, 100, at=3, trade_id=10)
    assert said(bench, "trades") == [("live", "joined at trade 10", 1)]
    assert said(bench, "book") == [("live", "snapshot received", 2)]
    assert said(bench, "ticker") == [("live", "ticker received", 3)]


def test_a_heartbeat_is_enough_for_trades_and_ticker() -> None:
    bench = Bench()
    bench.feed(Kind.HEARTBEAT, 100, at=4, trade_id=10)
    for channel, states in (
        ("trades", [("live", "heartbeat received", 4)]),
        ("ticker", [("live", "heartbeat received", 4)]),
        ("book", []),
    ):
        assert said(bench, channel) == states


def test_a_stream_is_stale_once_no_heartbeat_came_for_longer_than_the_limit() -> None:
    bench = Bench()
    bench.join()
    bench.feed(Kind.HEARTBEAT, 100, at=SECOND, trade_id=10)
    bench.streams.watch(SUSPECT, NOW + SECOND + SUSPECT)
    bench.streams.watch(SUSPECT, NOW + SECOND + SUSPECT + 1)
    bench.feed(Kind.HEARTBEAT, 100, at=6 * SECOND, trade_id=10)
    for channel in bench.logs:
        assert said(bench, channel)[1:3] == [
            ("stale", "no heartbeat for 3.0 s", SECOND + SUSPECT + 1),
            ("live", "heartbeat received", 6 * SECOND),
        ]


def test_the_silence_is_told_in_seconds() -> None:
    bench = Bench()
    bench.join()
    bench.streams.watch(SUSPECT, NOW + 3_000_050_000)
    assert said(bench, "trades")[-1] == ("stale", "no heartbeat for 3000.1 s", 3_000_050_000)


def test_a_stream_with_one_message_is_quiet_after_half_a_minute_and_the_next_one_ends_it() -> None:
    bench = Bench()
    bench.feed(Kind.TRADE, 10)
    bench.streams.watch(SUSPECT, NOW)
    for at in (30 * SECOND, 30 * SECOND + 1):
        bench.feed(Kind.HEARTBEAT, 100, at=at, trade_id=10)
        bench.streams.watch(SUSPECT, NOW + at)
    quiet = ("quiet", "nothing for 30 s while heartbeats go on", 30 * SECOND + 1)
    assert said(bench, "trades")[1:] == [quiet]
    bench.feed(Kind.TRADE, 11, at=31 * SECOND)
    bench.streams.watch(SUSPECT, NOW + 31 * SECOND)
    assert said(bench, "trades")[1:] == [quiet, ("live", "messages again", 31 * SECOND)]


def test_without_a_connection_silence_says_nothing() -> None:
    bench = Bench()
    fresh = Bench().streams
    fresh.lost("never there", NOW)
    assert (fresh.product, fresh.heard, fresh.refused) == ("BTC-USD", 0, None)
    bench.join()
    for second in range(1, 6):
        bench.feed(Kind.HEARTBEAT, 100, at=second * SECOND, trade_id=10)
    bench.streams.lost("reset", NOW + 6 * SECOND)
    assert bench.streams.heard == 0
    bench.streams.watch(SUSPECT, NOW + 600 * SECOND)
    for channel in bench.logs:
        assert said(bench, channel)[1:] == [("down", "reset", 6 * SECOND)]
    assert bench.wants == []
    bench.streams.connected(NOW + 600 * SECOND)
    assert bench.streams.heard == 0
    bench.streams.watch(SUSPECT, NOW + 601 * SECOND)
    assert bench.wants == []
    bench.feed(Kind.BOOK_SNAPSHOT, at=602 * SECOND)
    assert bench.counts.outcomes == ["snapshot"]


def test_a_product_that_was_never_connected_is_not_watched() -> None:
    wants: list[Want] = []
    streams, log = trades_alone(wants)
    assert (streams.heard, streams.refused) == (0, None)
    streams.watch(SUSPECT, NOW + 600 * SECOND)
    assert log.records == []


def test_a_product_that_the_venue_refuses_is_not_watched() -> None:
    bench = Bench()
    bench.join()
    bench.streams.refused = "not here"
    bench.streams.watch(SUSPECT, NOW + 600 * SECOND)
    assert bench.states("trades") == ["live"]


def test_a_gap_of_trades_makes_the_book_suspect_once() -> None:
    bench = Bench()
    bench.join()
    bench.feed(Kind.TRADE, 12, at=5)
    assert said(bench, "book")[1:] == [("resyncing", "trades of this product are missing", 5)]
    bench.feed(Kind.BOOK_SNAPSHOT, at=6)
    bench.feed(Kind.TRADE, 13, at=7)
    bench.feed(Kind.HEARTBEAT, 100, at=8, trade_id=13)
    assert bench.wants == [Want.TRADES, Want.BOOK]


def test_one_that_a_heartbeat_finds_does_too() -> None:
    bench = Bench()
    bench.join()
    for at in (1, SECOND):
        bench.feed(Kind.HEARTBEAT, 100, at=at, trade_id=11)
    assert bench.wants == [Want.TRADES, Want.BOOK, Want.TICKER]
    assert [at for _, _, at in said(bench, "trades")] == [0, SECOND]
    assert said(bench, "book")[1:] == [("resyncing", "trades of this product are missing", SECOND)]
    bench.feed(Kind.BOOK_SNAPSHOT, at=SECOND + 1)
    bench.feed(Kind.HEARTBEAT, 100, at=2 * SECOND)
    assert bench.wants == [Want.TRADES, Want.BOOK, Want.TICKER]


def test_the_first_trade_of_all_makes_nothing_suspect() -> None:
    bench = Bench()
    bench.feed(Kind.BOOK_SNAPSHOT)
    bench.feed(Kind.TRADE, 10)
    bench.feed(Kind.HEARTBEAT, 100, at=1, trade_id=10)
    assert bench.wants == []


def test_a_ticker_that_stays_behind_is_asked_for() -> None:
    bench = Bench()
    bench.join()
    bench.feed(Kind.TRADE, 11)
    for second in (1, 2):
        bench.feed(Kind.HEARTBEAT, 100, at=second * SECOND, trade_id=11)
    text = "trade 11 is known, last ticker was of 10"
    assert bench.wants == [Want.TICKER]
    assert said(bench, "ticker")[1:] == [("resyncing", text, 2 * SECOND)]
    ticker = bench.streams.ticker
    assert ticker is not None
    assert ticker.behind
    bench.streams.lost("reset", NOW + 3 * SECOND)
    assert not ticker.behind, "the next connection begins with one"


def test_numbers_and_times_go_where_they_belong() -> None:
    bench = Bench()
    bench.feed(Kind.TRADE_SEED, 10)
    bench.feed(Kind.TRADE_SEED, 9, at=1)
    bench.feed(Kind.TRADE, 11, at=2)
    bench.feed(Kind.TRADE, 9, at=3)
    bench.feed(Kind.TICKER, 100, at=4, trade_id=10)
    bench.feed(Kind.TICKER, 120, at=5, trade_id=11)
    bench.feed(Kind.TICKER, 90, at=6, trade_id=11)
    assert bench.logs["trades"].seqs("frame") == [11]
    assert bench.logs["ticker"].seqs("frame") == [100, 120]
    assert [record.ts_recv - NOW for record in bench.logs["ticker"].of("frame")] == [4, 5]
    trades, ticker = bench.streams.trades, bench.streams.ticker
    assert trades is not None
    assert ticker is not None
    assert (trades.duplicates, ticker.duplicates) == (1, 1)


def test_trades_and_tickers_that_begin_anew_are_told_by_their_times() -> None:
    bench = Bench()
    bench.join()
    for second in range(2, 5):
        bench.feed(Kind.TRADE, second, at=second * SECOND)
        bench.feed(Kind.TICKER, second, at=second * SECOND, trade_id=second)
    for channel in ("trades", "ticker"):
        assert bench.logs[channel].records[-1].epoch == NOW + 4 * SECOND
    bench = Bench()
    bench.join()
    for second in range(2, 5):
        bench.feed(Kind.TRADE_SEED, second, at=second * SECOND)
    assert bench.streams.trades is not None
    assert bench.streams.trades.writer.epoch == NOW + 4 * SECOND


def test_a_hole_found_on_joining_is_dated() -> None:
    bench = Bench()
    bench.join()
    bench.feed(Kind.TRADE_SEED, 15, at=9)
    assert [at for _, _, at in said(bench, "trades")] == [0, 9]


def test_a_book_update_that_cannot_be_read_says_nothing_of_trades() -> None:
    bench = Bench()
    bench.join()
    for kind in (Kind.BOOK_UPDATE, Kind.TICKER):
        bench.streams.unreadable(Event(kind, "BTC-USD", 11), "bad", NOW)
    assert bench.wants == [Want.BOOK]


@pytest.mark.parametrize(
    ("channel", "wants"),
    [("trades", []), ("book", [Want.BOOK]), ("ticker", [Want.TICKER]), ("other", [])],
)
def test_what_readers_go_without_is_asked_for_on_its_own_channel(
    channel: str, wants: list[Want]
) -> None:
    bench = Bench()
    bench.join()
    missed = Missed(8, 9, 2)
    bench.streams.missed(channel, missed, "record_refused", NOW + 3)
    assert bench.wants == wants
    text = "readers have no 8..9 (record_refused)"
    for each in ("book", "ticker"):
        later = [("resyncing", text, 3)] if each == channel else []
        assert said(bench, each)[1:] == later
    assert bench.counts.gaps == (["record_refused"] if wants else [])
    trades = bench.streams.trades
    assert trades is not None
    assert trades.open.left == ([(8, 9)] if channel == "trades" else [])
    assert [gap.since - NOW for gap in trades.open.gaps] == ([3] if channel == "trades" else [])


@pytest.mark.parametrize("channel", ["trades", "book", "ticker"])
def test_on_a_channel_that_is_not_served_nothing_is_asked_for(channel: str) -> None:
    streams = ProductStreams("BTC-USD", None, None, None, lambda _want: None)
    streams.missed(channel, Missed(8, 9), "record_refused", NOW)
    streams.log_lost(EPOCH, NOW)
    streams.connected(NOW)
    streams.watch(SUSPECT, NOW + 600 * SECOND)
    streams.lost("reset", NOW)
    assert streams.report() == {"heard": None, "refused": None, "withheld": 0}


def test_in_a_log_that_was_made_anew_every_stream_begins_anew() -> None:
    bench = Bench()
    bench.join()
    bench.streams.log_lost(EPOCH, NOW + 5)
    for channel, log in bench.logs.items():
        repeated = next(record for record in log.records if record.epoch == EPOCH)
        assert (repeated.kind, repeated.prev, repeated.ts_recv) == ("status", None, NOW + 5)
        if channel != "book":
            assert log.records[-1] is repeated
    assert said(bench, "book")[-1] == ("resyncing", "the log was lost", 5)
    assert (bench.wants, bench.counts.gaps) == ([Want.BOOK], ["log_lost"])
    bench.feed(Kind.BOOK_UPDATE, at=6)
    bench.feed(Kind.BOOK_SNAPSHOT, at=7)
    resync = bench.logs["book"].of("resync")[-1]
    assert bench.logs["book"].of("frame") == []
    assert msgspec.json.decode(resync.body, type=ResyncBody).cause == "log_lost"


def test_the_report_names_everything() -> None:
    bench = Bench()
    bench.join()
    assert bench.streams.report()["heard"] is None
    for number in (11, 11, 14):
        bench.feed(Kind.TRADE, number, at=2)
    bench.feed(Kind.TRADE, 10**9, at=3)
    bench.feed(Kind.HEARTBEAT, 100, at=4)
    bench.streams.refused = "why"
    report = bench.streams.report()
    assert report["trades"] == {
        "state": "resyncing",
        "since": NOW + 2,
        "evidence": report["trades"]["evidence"],
        "epoch": 1,
        "seq": 11,
        "messages": 3,
        "duplicates": 1,
        "gaps": 1,
        **bench.streams.all[0].extra(),
    }
    assert "12..13" in report["trades"]["evidence"]
    assert report["ticker"]["seq"] == 100
    assert report["book"]["resyncs"] == 1
    assert {key: report[key] for key in ("heard", "refused", "withheld")} == {
        "heard": NOW + 4,
        "refused": "why",
        "withheld": 1,
    }
