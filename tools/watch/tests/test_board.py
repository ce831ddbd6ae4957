"""The board, fed with server messages."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from market_data_fanout_client import Freshness
from market_data_fanout_client.chain import Verdict
from rich.console import Console

from tools.subscribed_book import SubscribedBook
from tools.watch.board import Board, Rate
from tools.watch.render import render

PRODUCT = "BTC-USD"
NOW = 1_700_000_000.0


def record(channel: str, seq: int, **more: Any) -> dict[str, Any]:
    return {
        "venue": "coinbase",
        "channel": channel,
        "product": PRODUCT,
        "epoch": 1,
        "seq": seq,
        "prev": seq - 1,
        "ts_ingest": int(NOW * 1e6) - 2000,
        **more,
    }


def incr(channel: str, seq: int, **fields: Any) -> dict[str, Any]:
    return {"type": "incr", "tick": record(channel, seq, fields=fields)}


def snapshot(channel: str, seq: int, state: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "snapshot", "snapshot": record(channel, seq, state=state), **more}


def trade(price: str) -> dict[str, Any]:
    return {"price": price, "size": "1", "side": "buy", "trade_id": 1, "time": 1}


def test_a_ticker_row_shows_price_best_levels_and_the_change_since_the_days_opening() -> None:
    board = Board((PRODUCT,), ("ticker",))
    board.take(
        incr(
            "ticker",
            5,
            last_trade=trade("110.00"),
            best_bid={"price": "109.99"},
            best_ask={"price": "110.01"},
            stats_24h={"open": "100.00"},
        ),
        Verdict.APPLY,
        NOW,
    )
    row = board.rows["ticker", PRODUCT]
    assert (row.last, row.bid, row.ask, row.ticks, row.seq) == ("110.00", "109.99", "110.01", 1, 5)
    assert row.change_percent == pytest.approx(10.0)
    assert row.latency_ms == pytest.approx(2.0)
    assert row.chain == "unbroken"


def test_without_a_days_opening_the_change_is_since_the_first_price_seen() -> None:
    board = Board((PRODUCT,), ("trades",))
    board.take(snapshot("trades", 4, {"trades": [trade("200")]}), Verdict.APPLY, NOW)
    board.take(incr("trades", 5, last_trade=trade("198")), Verdict.APPLY, NOW)
    row = board.rows["trades", PRODUCT]
    assert row.change_percent == pytest.approx(-1.0)
    assert row.direction == -1


def test_a_book_row_shows_the_best_levels_of_snapshot_parts_and_changes() -> None:
    board = Board((PRODUCT,), ("book",))
    board.take(
        snapshot("book", 4, {"bids": [["99", "1"]], "asks": [["101", "1"]]}, part=1, last=False),
        None,
        NOW,
    )
    row = board.rows["book", PRODUCT]
    assert not row.bid
    board.take(
        snapshot("book", 4, {"bids": [["98", "1"]], "asks": []}, part=2, last=True),
        Verdict.APPLY,
        NOW,
    )
    assert (row.bid, row.ask) == ("99", "101")
    board.take(incr("book", 5, changes=[["buy", "99", "0"]]), Verdict.APPLY, NOW)
    assert (row.bid, row.ask) == ("98", "101")


def test_what_breaks_the_chain_is_logged_and_shown_as_healed_after_the_snapshot() -> None:
    board = Board((PRODUCT,), ("ticker",))
    board.take(incr("ticker", 5), Verdict.APPLY, NOW)
    board.take(incr("ticker", 9), Verdict.BREAK, NOW)
    row = board.rows["ticker", PRODUCT]
    assert (row.chain, row.ticks) == ("resyncing", 1)
    assert "asked to resync" in board.log[-1][1]
    board.take(snapshot("ticker", 9, {}), Verdict.APPLY, NOW)
    assert row.chain == "healed 1x"


def test_status_changes_and_resets_are_news_and_the_first_live_is_not() -> None:
    board = Board((PRODUCT,), ("ticker",))

    def status(state: str) -> dict[str, Any]:
        return {"type": "status", **record("ticker", 5, state=state, evidence="e")}

    board.take(status("live"), None, NOW)
    assert not board.log
    board.take(status("resyncing"), None, NOW)
    board.take(
        {"type": "reset", **record("ticker", 6, cause="gap", repair="snapshot")},
        Verdict.APPLY,
        NOW,
    )
    assert [text.split(": ")[1] for _, text in board.log] == [
        "resyncing (e)",
        "reset (gap, snapshot)",
    ]


def test_messages_of_other_streams_and_of_no_stream_are_ignored() -> None:
    board = Board((PRODUCT,), ("ticker",))
    board.take(incr("trades", 5), Verdict.APPLY, NOW)
    board.take({"type": "hb", "server_time": 1, "heads": {}}, None, NOW)
    assert board.rows["ticker", PRODUCT].ticks == 0


def test_a_lost_connection_is_news_and_counted() -> None:
    board = Board((PRODUCT,), ("ticker",))
    board.connection_changed("connected", NOW)
    board.connection_changed("disconnected: gone", NOW)
    assert board.reconnects == 1
    assert board.log[-1][1] == "disconnected: gone"


def test_the_rate_is_over_whole_seconds_and_falls_to_zero_in_silence() -> None:
    rate = Rate()
    for tick in range(50):
        rate.add(100 + tick / 10)
    assert rate.per_second(105.0) == pytest.approx(10.0)
    assert rate.per_second(200.0) == 0.0


def picture(board: Board, width: int) -> list[str]:
    console = Console(width=width, file=StringIO())
    console.print(render(board, NOW, title="a gateway", width=width))
    assert isinstance(console.file, StringIO)
    return console.file.getvalue().splitlines()


def test_the_picture_holds_every_row_and_the_news() -> None:
    board = Board((PRODUCT, "ETH-USD"), ("ticker", "trades"))
    board.take(incr("ticker", 5, last_trade=trade("110.00")), Verdict.APPLY, NOW)
    board.note("something happened", NOW)
    text = "\n".join(picture(board, 120))
    for expected in ("a gateway", "BTC-USD", "ETH-USD", "110.00", "trades", "something happened"):
        assert expected in text


def test_a_narrow_terminal_shows_fewer_columns_and_whole_prices() -> None:
    board = Board((PRODUCT,), ("ticker", "trades"))
    board.take(
        incr(
            "ticker",
            5,
            last_trade=trade("110000.00"),
            best_bid={"price": "109999.99"},
            best_ask={"price": "110000.01"},
        ),
        Verdict.APPLY,
        NOW,
    )
    wide, narrow = picture(board, 130), picture(board, 60)
    assert "ticks/s" in "\n".join(wide)
    assert "ticks/s" not in "\n".join(narrow)
    for price in ("110000.00", "109999.99"):
        assert price in "\n".join(narrow)
    assert max(map(len, narrow)) <= 60
    for width in range(40, 140):
        assert "…" not in "\n".join(picture(board, width)[:6])


def fresh(state: Any, **more: Any) -> Freshness:
    held: dict[str, Any] = {"as_of": int(NOW * 1e6), "age_ms": 1500, "feed": "live"}
    return Freshness(**{"state": state, "mode": "full", "lag": 0, **held, **more})


@pytest.mark.parametrize("width", [30, 45, 60, 80, 130])
def test_whether_the_data_can_be_trusted_is_shown_at_any_width(width: int) -> None:
    board = Board((PRODUCT,), ("ticker",))
    board.take(incr("ticker", 5, last_trade=trade("110.00")), Verdict.APPLY, NOW)
    for verdict, words in (
        (fresh("live"), "live"),
        (fresh("stale"), "stale, as of"),
        (fresh("catching_up", as_of=None, lag=700), "catching up, 700 b"),
    ):
        board.freshness = lambda _channel, _product, verdict=verdict: verdict
        board.judge()
        assert words in "\n".join(picture(board, width)), width


def test_numbers_that_are_not_of_now_are_no_colour() -> None:
    board = Board((PRODUCT,), ("ticker",))
    for seq, price in ((5, "110.00"), (6, "111.00")):
        board.take(incr("ticker", seq, last_trade=trade(price)), Verdict.APPLY, NOW)

    def painted(state: str) -> str:
        board.freshness = lambda _channel, _product: fresh(state)
        board.judge()
        console = Console(width=120, file=StringIO(), force_terminal=True, color_system="standard")
        console.print(render(board, NOW, title="a gateway"))
        assert isinstance(console.file, StringIO)
        return console.file.getvalue()

    green = "\x1b[32m111.00"
    assert green in painted("live")
    assert green not in painted("offline")
    assert "\x1b[32munbroken" not in painted("stale")


def test_a_reset_that_carries_the_state_makes_the_book_whole_at_once() -> None:
    book = SubscribedBook()
    book.take(
        {"type": "reset", **record("book", 5, state={"bids": [["1", "2"]], "asks": []})},
        Verdict.APPLY,
    )
    assert book.complete
    assert book.book.bids() == [("1", "2")]
    book.take({"type": "reset", **record("book", 6)}, Verdict.APPLY)
    assert not book.complete


def test_the_parts_of_a_snapshot_that_was_cut_off_are_forgotten() -> None:
    book = SubscribedBook()
    book.take(snapshot("book", 4, {"bids": [["9", "1"]], "asks": []}, part=1, last=False), None)
    book.take(snapshot("book", 5, {"bids": [["8", "1"]], "asks": []}, part=1, last=False), None)
    book.take(snapshot("book", 5, {"bids": [], "asks": []}, part=2, last=True), None)
    assert book.book.bids() == [("8", "1")]
