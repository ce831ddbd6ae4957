"""What a message of Coinbase may lack, and what it gives without it."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from services.common.subjects import StreamKey
from services.common.wire import Fields, Level, Stats24h, Trade
from services.normalizer.tests.test_coinbase import BTC, MAPPER, TIME, TS_RECV, fields, state
from services.normalizer.venues.mapping import Unmappable

# What each field of each message may lack, by the table in the normalizer's README: the value that
# a message has, and what the same message gives without it.
OPTIONAL_OF_TICKER: dict[str, dict[str, Any]] = {
    "best_bid": {"best_bid": None},
    "best_bid_size": {"best_bid": Level("9")},
    "best_ask": {"best_ask": None},
    "best_ask_size": {"best_ask": Level("11")},
    "side": {"last_trade": Trade("10", "1", None, 3, TIME)},
    "time": {"last_trade": Trade("10", "1", "buy", 3, TS_RECV)},
    "trade_id": {"last_trade": None},
    "last_size": {"last_trade": None},
    "open_24h": {"stats_24h": Stats24h(None, "12", "8", "70")},
    "high_24h": {"stats_24h": Stats24h("9", None, "8", "70")},
    "low_24h": {"stats_24h": Stats24h("9", "12", None, "70")},
    "volume_24h": {"stats_24h": Stats24h("9", "12", "8", None)},
    "volume_30d": {"volume_30d": None},
}
TICKER: dict[str, Any] = {
    "type": "ticker",
    "sequence": 5,
    "product_id": BTC,
    "price": "10",
    "best_bid": "9",
    "best_bid_size": "2",
    "best_ask": "11",
    "best_ask_size": "3",
    "side": "buy",
    "time": "2026-07-07T22:58:17.000001Z",
    "trade_id": 3,
    "last_size": "1",
    "open_24h": "9",
    "high_24h": "12",
    "low_24h": "8",
    "volume_24h": "70",
    "volume_30d": "900",
}
WHOLE_TICKER = Fields(
    last_trade=Trade("10", "1", "buy", 3, TIME),
    best_bid=Level("9", "2"),
    best_ask=Level("11", "3"),
    stats_24h=Stats24h("9", "12", "8", "70"),
    volume_30d="900",
)
ABSENT = object()


def without(body: dict[str, Any], name: str, value: object) -> bytes:
    spoiled = {key: held for key, held in body.items() if key != name or value is not ABSENT}
    if value is not ABSENT:
        spoiled[name] = value
    return json.dumps(spoiled).encode()


@pytest.mark.parametrize("value", [ABSENT, None, ""], ids=["absent", "null", "empty"])
@pytest.mark.parametrize("name", OPTIONAL_OF_TICKER)
def test_an_optional_field_that_a_ticker_lacks_costs_that_field_only(
    name: str, value: object
) -> None:
    body = without(TICKER, name, value)
    mapped = MAPPER.fields(StreamKey("coinbase", "ticker", BTC), body, TS_RECV)
    expected = msgspec.structs.replace(WHOLE_TICKER, **OPTIONAL_OF_TICKER[name])
    assert mapped == (TS_RECV if name == "time" else TIME, 5, expected, ())


@pytest.mark.parametrize("value", ["0.-1", "NaN", 5, ["1"], {"a": 1}, True])
@pytest.mark.parametrize("name", sorted(OPTIONAL_OF_TICKER.keys() - {"time", "trade_id"}))
def test_an_optional_field_that_makes_no_sense_is_left_out_and_told(
    name: str, value: object
) -> None:
    key, body = StreamKey("coinbase", "ticker", BTC), without(TICKER, name, value)
    mapped = MAPPER.fields(key, body, TS_RECV)
    assert mapped.fields == msgspec.structs.replace(WHOLE_TICKER, **OPTIONAL_OF_TICKER[name])
    assert [one.code for one in mapped.refused] == ["bad_side" if name == "side" else "bad_decimal"]
    assert f"$.{name}" in mapped.refused[0].detail
    # The short way declines, so that it is told.
    mapping = MAPPER.fast_path["ticker"]
    with pytest.raises(Unmappable):
        mapping.fields(key, msgspec.json.decode(body, type=mapping.body), TS_RECV)


MATCH: dict[str, Any] = {
    "type": "match",
    "trade_id": 3,
    "product_id": BTC,
    "price": "10",
    "size": "1",
    "side": "sell",
    "sequence": 5,
    "time": "2026-07-07T22:58:17.000001Z",
}


@pytest.mark.parametrize("value", [ABSENT, None, ""], ids=["absent", "null", "empty"])
def test_a_trade_without_side_or_time_is_a_trade(value: object) -> None:
    key = StreamKey("coinbase", "trades", BTC)
    sideless = MAPPER.fields(key, without(MATCH, "side", value), TS_RECV)
    assert sideless == (TIME, 5, Fields(last_trade=Trade("10", "1", None, 3, TIME)), ())
    timeless = MAPPER.fields(key, without(MATCH, "time", value), TS_RECV)
    assert timeless == (TS_RECV, 5, Fields(last_trade=Trade("10", "1", "buy", 3, TS_RECV)), ())
    if value != "":
        assert MAPPER.fields(key, without(MATCH, "sequence", value), TS_RECV).venue_seq is None


@pytest.mark.parametrize("name", ["trade_id", "price", "size"])
@pytest.mark.parametrize("value", [ABSENT, None, ""], ids=["absent", "null", "empty"])
def test_what_a_trade_cannot_lack_makes_it_none(name: str, value: object) -> None:
    with pytest.raises(Unmappable):
        MAPPER.fields(StreamKey("coinbase", "trades", BTC), without(MATCH, name, value), TS_RECV)


@pytest.mark.parametrize("name", ["sequence", "price", "product_id", "type"])
@pytest.mark.parametrize("value", [ABSENT, None, ""], ids=["absent", "null", "empty"])
def test_what_a_ticker_cannot_lack_makes_it_none(name: str, value: object) -> None:
    with pytest.raises(Unmappable):
        MAPPER.fields(StreamKey("coinbase", "ticker", BTC), without(TICKER, name, value), TS_RECV)


@pytest.mark.parametrize("value", [ABSENT, None, "", 5], ids=["absent", "null", "empty", "number"])
def test_books_may_lack_their_time_and_null_is_an_empty_side(value: object) -> None:
    body = {"type": "snapshot", "product_id": BTC, "bids": None, "asks": [["2", "1"]], "time": "x"}
    mapped = MAPPER.state(StreamKey("coinbase", "book", BTC), without(body, "time", value), TS_RECV)
    assert (mapped.ts_event, mapped.refused) == (TS_RECV, ())
    assert json.loads(bytes(mapped.state)) == {"bids": [], "asks": [["2", "1"]]}
    update = {"type": "l2update", "product_id": BTC, "changes": None, "time": "x"}
    assert fields("book", without(update, "time", value)) == (TS_RECV, None, Fields(changes=[]))


@pytest.mark.parametrize("value", [ABSENT, None, ""], ids=["absent", "null", "empty"])
@pytest.mark.parametrize("name", ["size", "bid", "ask", "volume", "time"])
def test_an_optional_field_that_a_rest_ticker_lacks_costs_that_field_only(
    name: str, value: object
) -> None:
    body = {"trade_id": 3, "price": "10", "size": "1", "bid": "9", "ask": "11", "volume": "70"}
    mapped = state("ticker", without({**body, "time": "2026-07-07T22:58:17Z"}, name, value))
    gone = {"size": "last_trade", "bid": "best_bid", "ask": "best_ask", "volume": "stats_24h"}
    every = {"last_trade", "best_bid", "best_ask", "stats_24h"}
    assert set(mapped.state) == every - {gone.get(name)}
    assert mapped.refused == ()


def test_rows_that_are_no_rows_cost_themselves_only() -> None:
    body = {
        "type": "snapshot",
        "product_id": BTC,
        "bids": [["10", "1"], None, ["9"], ["8", 1], "7", ["6", "1", 3]],
        "asks": [],
    }
    mapped = state("book", body)
    assert mapped.state == {"bids": [["10", "1"], ["6", "1"]], "asks": []}
    assert [one.code for one in mapped.refused] == ["bad_row"] * 4
