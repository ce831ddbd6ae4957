"""Coinbase's messages, by known answers from real recordings."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from services.common.subjects import StreamKey
from services.common.testing.raw_records import RawStream
from services.common.wire import Fields, Level, Stats24h, Trade
from services.normalizer.venues.coinbase import CoinbaseMapper
from services.normalizer.venues.mapping import Unmappable

MAPPER = CoinbaseMapper()
TS_RECV = 1_783_465_100_000_000
BTC = "BTC-USD"
TIME = 1_783_465_097_000_001


class Told(NamedTuple):
    """A `Mapped` of which nothing was left out."""

    ts_event: int
    venue_seq: int | None
    fields: Fields


def fields(channel: str, body: object, product: str = BTC) -> Any:
    mapped = MAPPER.fields(StreamKey("coinbase", channel, product), as_bytes(body), TS_RECV)
    return Told(*mapped[:3])


def state(channel: str, body: object, product: str = BTC) -> Any:
    mapped = MAPPER.state(StreamKey("coinbase", channel, product), as_bytes(body), TS_RECV)
    return mapped._replace(state=json.loads(bytes(mapped.state)))


def as_bytes(body: object) -> bytes:
    return body if isinstance(body, bytes) else json.dumps(body).encode()


def body_of(channel: str, **changes: Any) -> dict[str, Any]:
    stream = RawStream(StreamKey("coinbase", channel, BTC))
    raw = stream.ticker(10) if channel == "ticker" else stream.match(10)
    return {**json.loads(bytes(raw.body)), **changes}


def instant(text: str) -> int:
    moment = datetime.fromisoformat(text)
    return round((moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()) * 1_000_000


class TestTicker:
    def test_a_full_ticker_gives_the_takers_side_as_it_is_and_all_its_figures(self) -> None:
        body = {
            "type": "ticker",
            "sequence": 137212619516,
            "product_id": BTC,
            "price": "84737.58",
            "open_24h": "84000.01",
            "volume_24h": "1836.96781750",
            "low_24h": "83000",
            "high_24h": "85000.5",
            "volume_30d": "99999.00000001",
            "best_bid": "84737.58",
            "best_bid_size": "0.19921154",
            "best_ask": "84737.59",
            "best_ask_size": "0.50000000",
            "side": "sell",
            "time": "2026-10-03T01:02:03.456789Z",
            "trade_id": 1102042811,
            "last_size": "0.00000025",
        }
        time = instant("2026-10-03T01:02:03+00:00") + 456_789
        assert fields("ticker", body) == (
            time,
            137212619516,
            Fields(
                last_trade=Trade("84737.58", "0.00000025", "sell", 1102042811, time),
                best_bid=Level("84737.58", "0.19921154"),
                best_ask=Level("84737.59", "0.50000000"),
                stats_24h=Stats24h("84000.01", "85000.5", "83000", "1836.96781750"),
                volume_30d="99999.00000001",
            ),
        )

    def test_a_ticker_without_the_fields_that_old_recordings_lack_is_still_a_ticker(self) -> None:
        body = {
            "type": "ticker",
            "sequence": 5,
            "product_id": BTC,
            "price": "1.5",
            "best_bid": "1.4",
            "best_ask": "1.6",
        }
        assert fields("ticker", body) == (
            TS_RECV,
            5,
            Fields(best_bid=Level("1.4"), best_ask=Level("1.6")),
        )

    def test_a_rest_ticker_gives_a_state_whose_trade_has_no_side(self) -> None:
        body = {
            "ask": "1.6",
            "bid": "1.4",
            "volume": "77.10",
            "trade_id": 9,
            "price": "1.5",
            "size": "0.10",
            "time": "2026-07-07T23:36:24.683209774Z",
            "rfq_volume": "3.1",
        }
        time = instant("2026-07-07T23:36:24+00:00") + 683_209
        mapped = state("ticker", body)
        assert mapped.ts_event == time
        assert mapped.state == {
            "last_trade": {
                "price": "1.5",
                "size": "0.10",
                "side": None,
                "trade_id": 9,
                "time": time,
            },
            "best_bid": {"price": "1.4"},
            "best_ask": {"price": "1.6"},
            "stats_24h": {"volume": "77.10"},
        }

    def test_a_websocket_ticker_may_be_a_resyncs_message_too(self) -> None:
        body = body_of("ticker")
        expected = json.loads(msgspec.json.encode(fields("ticker", body).fields))
        assert state("ticker", body).state == expected


class TestTrades:
    @pytest.mark.parametrize(("maker", "taker"), [("buy", "sell"), ("sell", "buy")])
    def test_a_match_names_the_maker_and_a_trade_names_the_taker(
        self, maker: str, taker: str
    ) -> None:
        mapped = fields("trades", body_of("trades", side=maker))
        assert mapped.fields.last_trade.side == taker
        assert mapped.venue_seq == 1070

    def test_a_rest_trade_row_is_a_trade_without_a_venue_sequence(self, captures: Path) -> None:
        lines = (captures / "coinbase/trades_paging_2017-06-06.jsonl").read_text().splitlines()
        rows = [row for line in lines for row in json.loads(line)["body"]]
        assert rows
        for row in rows:
            mapped = fields("trades", row)
            trade = mapped.fields.last_trade
            assert mapped.venue_seq is None
            assert (trade.price, trade.size) == (row["price"], row["size"])
            assert trade.trade_id == row["trade_id"]
            assert {trade.side, row["side"]} == {"buy", "sell"}
            assert (
                datetime.fromtimestamp(trade.time // 1_000_000, UTC).isoformat()[:19]
                == (row["time"][:19])
            )

    def test_rest_trades_as_a_state_stand_oldest_first(self, captures: Path) -> None:
        body = (captures / "coinbase/rest_products_BTC-EUR_trades_GET-200.json").read_bytes()
        trades = state("trades", body, "BTC-EUR").state["trades"]
        ids = [trade["trade_id"] for trade in trades]
        assert len(ids) == 100
        assert ids == sorted(ids)

    def test_last_match_is_not_a_trade(self) -> None:
        with pytest.raises(Unmappable, match="unexpected_type"):
            fields("trades", body_of("trades", type="last_match"))


class TestBook:
    def test_changes_stay_as_the_venue_wrote_them(self) -> None:
        rows = [["buy", "63507.67", "0.00000000"], ["sell", "63510.1", "2.00"]]
        body = {
            "type": "l2update",
            "product_id": BTC,
            "changes": rows,
            "time": "2026-07-07T22:58:17.1Z",
        }
        mapped = fields("book", body)
        assert [list(row) for row in mapped.fields.changes] == rows
        assert mapped.venue_seq is None
        assert mapped.ts_event == instant("2026-07-07T22:58:17+00:00") + 100_000

    def test_an_update_without_changes_is_an_empty_tick(self) -> None:
        body = {
            "type": "l2update",
            "product_id": BTC,
            "changes": [],
            "time": "0001-01-01T00:00:00Z",
        }
        assert fields("book", body) == (TS_RECV, None, Fields(changes=[]))

    @pytest.mark.parametrize("changes", [[("sell", "200.20", "0")], []])
    def test_an_orders_message_gives_the_changes_of_levels_that_stand_beside_it(
        self, changes: list[tuple[str, str, str]]
    ) -> None:
        body = {
            "type": "done",
            "time": "2026-07-07T22:58:17.164892Z",
            "product_id": BTC,
            "sequence": 137212619516,
            "price": "200.20",
            "order_id": "d50ec984-77a8-460a-b958-66f114b0de9b",
            "reason": "filled",
            "side": "sell",
            "remaining_size": "0",
        }
        key = StreamKey("coinbase", "book", BTC)
        assert MAPPER.fields(key, as_bytes(body), TS_RECV, changes)[:3] == (
            instant("2026-07-07T22:58:17+00:00") + 164_892,
            137212619516,
            Fields(changes=changes),
        )

    @pytest.mark.parametrize(
        ("body", "changes", "code"),
        [
            ({}, [("sell", "x", "0")], "bad_decimal"),
            ({}, [("ask", "1", "0")], "bad_side"),
            ({"product_id": "ETH-USD"}, [], "wrong_product"),
            ({"type": "l2update"}, [], "unexpected_type"),
            ({"sequence": None}, [], "bad_field"),
        ],
    )
    def test_an_orders_message_that_makes_no_sense_is_refused(
        self, body: dict[str, Any], changes: list[tuple[str, str, str]], code: str
    ) -> None:
        whole = {"type": "open", "product_id": BTC, "sequence": 5} | body
        key = StreamKey("coinbase", "book", BTC)
        with pytest.raises(Unmappable) as refusal:
            MAPPER.fields(key, as_bytes(whole), TS_RECV, changes)
        assert refusal.value.code == code

    @pytest.mark.parametrize(
        "cells",
        [
            ["open", BTC, "137212619516", "a", "sell", "200.20", "1", "2026-07-07T22:58:17Z"],
            ["done", BTC, "137212619516", "a", "2026-07-07T22:58:17Z"],
            ["match", BTC, "137212619516", "a", "b", "200.20", "1", "2026-07-07T22:58:17Z"],
            ["change", BTC, "137212619516", "a", None, "1", "2026-07-07T22:58:17Z"],
            ["noop", BTC, 137212619516, "2026-07-07T22:58:17Z", "a cell that was added"],
        ],
        ids=lambda cells: str(cells[0]),
    )
    def test_a_row_of_level3_gives_the_changes_of_levels_that_stand_beside_it(
        self, cells: list[object]
    ) -> None:
        key, changes = StreamKey("coinbase", "book", BTC), [("sell", "200.20", "0")]
        assert MAPPER.fields(key, json.dumps(cells).encode(), TS_RECV, changes)[:3] == (
            instant("2026-07-07T22:58:17+00:00"),
            137212619516,
            Fields(changes=changes),
        )

    @pytest.mark.parametrize("told", ["", None, 5, "0001-01-01T00:00:00Z"])
    def test_a_row_without_a_usable_time_has_that_of_its_receipt(self, told: object) -> None:
        body = json.dumps(["done", BTC, "7", "a", told]).encode()
        key = StreamKey("coinbase", "book", BTC)
        assert MAPPER.fields(key, body, TS_RECV, [])[:3] == (TS_RECV, 7, Fields(changes=[]))

    @pytest.mark.parametrize(
        ("body", "changes", "code"),
        [
            (b'["done","BTC-USD","7","a","x"]', [("sell", "x", "0")], "bad_decimal"),
            (b'["done","ETH-USD","7","a","x"]', [], "wrong_product"),
            (b'["done","BTC-USD","7"]', [], "bad_field"),
            (b'["done","BTC-USD","-7","a","x"]', [], "bad_field"),
            (b'["done","BTC-USD","9223372036854775808","a","x"]', [], "bad_field"),
            (b'["done","BTC-USD",null,"a","x"]', [], "bad_field"),
            (b'["weather","BTC-USD","7","a","x"]', [], "unexpected_type"),
            (b"[]", [], "unexpected_type"),
            (b'[{"type":"done"}]', [], "bad_field"),
            (b'["done"', [], "bad_json"),
        ],
    )
    def test_a_row_of_level3_that_makes_no_sense_is_refused(
        self, body: bytes, changes: list[tuple[str, str, str]], code: str
    ) -> None:
        with pytest.raises(Unmappable) as refusal:
            MAPPER.fields(StreamKey("coinbase", "book", BTC), body, TS_RECV, changes)
        assert refusal.value.code == code

    def test_an_array_without_changes_beside_it_is_not_a_book_update(self) -> None:
        with pytest.raises(Unmappable) as refusal:
            MAPPER.fields(StreamKey("coinbase", "book", BTC), b'["noop"]', TS_RECV)
        assert refusal.value.code == "bad_field"

    def test_a_rest_books_rows_are_trimmed_to_price_and_size(self, captures: Path) -> None:
        body = (captures / "coinbase/rest-book-btc.json").read_bytes()
        given_book = json.loads(body)
        mapped = state("book", body)
        assert mapped.state == {
            "bids": [row[:2] for row in given_book["bids"]],
            "asks": [row[:2] for row in given_book["asks"]],
        }
        assert mapped.refused == ()
        assert mapped.ts_event == instant("2026-07-07T23:36:24+00:00") + 683_209

    def test_rows_in_another_order_are_put_best_first(self) -> None:
        body = {
            "type": "snapshot",
            "product_id": BTC,
            "bids": [["9", "1"], ["10", "1"], ["9.5", "1"]],
            "asks": [["100", "1"], ["20", "1"], ["100.0", "2"]],
        }
        assert state("book", body).state == {
            "bids": [["10", "1"], ["9.5", "1"], ["9", "1"]],
            "asks": [["20", "1"], ["100", "1"], ["100.0", "2"]],
        }

    def test_an_exponent_is_a_number_and_the_text_stays_the_venues(self) -> None:
        body = {
            "type": "snapshot",
            "product_id": BTC,
            "bids": [["5.1e-7", "150000"], ["5e-7", "10000"], ["0.00000008", "8000"]],
            "asks": [["6e-7", "1"], ["0.0000006", "2"]],
        }
        mapped = state("book", body)
        assert mapped.state == {"bids": body["bids"], "asks": body["asks"]}
        assert mapped.refused == ()
        changes = [["buy", "5.1e-7", "0e-8"], ["sell", "6.0E-7", "1e4"]]
        update = {"type": "l2update", "product_id": BTC, "changes": changes}
        raw = json.dumps(update, separators=(",", ":")).encode()
        mapped_update = MAPPER.fields(StreamKey("coinbase", "book", BTC), raw, TS_RECV)
        assert mapped_update.fields.changes == [tuple(change) for change in changes]
        mapping = MAPPER.fast_path["book"]
        decoded = msgspec.json.decode(raw, type=mapping.body)
        _, _, fields = mapping.fields(StreamKey("coinbase", "book", BTC), decoded, TS_RECV)
        assert json.loads(msgspec.json.encode(fields)) == {"changes": changes}

    def test_a_row_that_makes_no_sense_is_left_out_and_the_book_stands(self) -> None:
        body = {
            "type": "snapshot",
            "product_id": BTC,
            "bids": [["10", "1"], ["9", "0.-10000"]],
            "asks": [["NaN", "1"], ["11", "1"]],
        }
        mapped = state("book", body)
        assert mapped.state == {"bids": [["10", "1"]], "asks": [["11", "1"]]}
        assert [str(refusal) for refusal in mapped.refused] == [
            "bad_row: ['9', '0.-10000'] - at `$.bids[1]`",
            "bad_row: ['NaN', '1'] - at `$.asks[0]`",
        ]
