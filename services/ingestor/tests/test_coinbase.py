from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from services.ingestor.venues.base import Credentials, Event, Kind, MalformedFrame
from services.ingestor.venues.coinbase import CoinbaseFeed, sign


def parse(**message: object) -> Event:
    return CoinbaseFeed().parse(json.dumps(message).encode())


def test_every_frame_of_a_real_recording_is_understood(captures: Path) -> None:
    feed = CoinbaseFeed()
    kinds: Counter[Kind] = Counter()
    with (captures / "coinbase" / "live-btc-eth.ndjson").open("rb") as frames:
        for frame in frames:
            event = feed.parse(frame)
            kinds[event.kind] += 1
            if event.kind is not Kind.SUBSCRIBED:
                assert event.time > 1_700_000_000_000_000
                assert event.product in ("BTC-USD", "ETH-USD")
    assert kinds == {
        Kind.SUBSCRIBED: 1,
        Kind.BOOK_SNAPSHOT: 2,
        Kind.TRADE_SEED: 2,
        Kind.BOOK_UPDATE: 1_898,
        Kind.TRADE: 435,
        Kind.HEARTBEAT: 118,
    }


def test_a_ticker_may_lack_what_old_ones_lacked() -> None:
    """`side`, `time`, `trade_id` and `last_size` were absent (coinbase-pro-node #140)."""
    event = parse(type="ticker", product_id="BTC-USD", sequence=7, price="1")
    assert event == Event(Kind.TICKER, "BTC-USD", 7, 0, 0)


def test_an_unknown_type_is_named_and_no_error() -> None:
    assert parse(type="auction", product_id="BTC-USD").text == "auction"


def test_errors_come_as_messages() -> None:
    """coinbase-pro-node #219."""
    event = parse(type="error", message="Failed to subscribe", reason="XX is not a valid product")
    assert event.kind is Kind.REFUSED
    assert event.text == "Failed to subscribe: XX is not a valid product"


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (b"not json", "bad_json"),
        (b'{"type":"match"', "bad_json"),
        (b"\xff\xfe", "bad_json"),
        (b"[]", "bad_field"),
        (b'{"product_id":"BTC-USD"}', "bad_field"),
        (b'{"type":"match","product_id":"BTC-USD","trade_id":"7"}', "bad_field"),
        (b'{"type":"match","product_id":"BTC-USD"}', "missing_field"),
        # Also where only others would read it.
        (b'{"type":"heartbeat","product_id":"BTC-USD","x":"\xff"}', "bad_json"),
        (b'{"type":"level3","schema":{"open":["\xff"]}}', "bad_json"),
        (b'{"type":"level3","schema":{"open":' + b"[" * 5000, "bad_json"),
        (b'{"type":"match","trade_id":7}', "missing_field"),
        (b'{"type":"ticker","product_id":"BTC-USD","trade_id":7}', "missing_field"),
        *(
            (b'{"type":"%b","product_id":"BTC-USD","%b":%d}' % (kind, name, wild), "bad_field")
            for kind, name in (
                (b"match", b"trade_id"),
                (b"last_match", b"trade_id"),
                (b"ticker", b"sequence"),
                (b"heartbeat", b"last_trade_id"),
                (b"open", b"sequence"),
            )
            for wild in (2**53, 2**63, 2**64, 10**40, -1)
        ),
    ],
)
def test_what_is_malformed_says_how(frame: bytes, reason: str) -> None:
    with pytest.raises(MalformedFrame) as caught:
        CoinbaseFeed().parse(frame)
    assert caught.value.reason == reason


def test_product_ids_stand_inside_each_channel() -> None:
    """At the top level they have been refused (gocryptotrader #1421)."""
    request = json.loads(CoinbaseFeed().subscribe(["BTC-USD"], ["heartbeat", "matches"], 1.0))
    assert request == {
        "type": "subscribe",
        "channels": [
            {"name": "heartbeat", "product_ids": ["BTC-USD"]},
            {"name": "matches", "product_ids": ["BTC-USD"]},
        ],
    }


def test_a_signature_is_the_documented_hmac() -> None:
    """Worked out independently: openssl dgst -sha256 -mac HMAC -macopt hexkey:... -binary | base64.

    Key `key` repeated (base64 a2V5a2V5a2V5), text `1700000000GET/users/self/verify`.
    """
    assert sign("a2V5a2V5a2V5", "1700000000") == "qkhWIeVdfZOV7+8Pg2LSTsH/03kf25TXNlCKANQFMAM="


def test_a_signed_subscription_carries_the_key_in_the_message() -> None:
    feed = CoinbaseFeed(Credentials("k", "a2V5a2V5a2V5", "p"))
    request = json.loads(feed.subscribe(["BTC-USD"], ["level2"], 1_700_000_000.5))
    assert request["timestamp"] == "1700000000.500000"
    assert request["signature"] == sign("a2V5a2V5a2V5", request["timestamp"])
    assert (request["key"], request["passphrase"]) == ("k", "p")
    unsigned = json.loads(feed.unsubscribe(["BTC-USD"], ["level2"]))
    assert set(unsigned) == {"type", "channels"}


UPDATE = {
    "type": "l2update",
    "product_id": "BTC-USD",
    "time": "2026-07-01T00:00:00.000001Z",
    "changes": [["buy", "100.00", "1"]],
}
BOOK = {"type": "snapshot", "product_id": "BTC-USD", "bids": [["1", "1"]], "asks": [["2", "1"]]}
MATCH = {
    "type": "match",
    "product_id": "BTC-USD",
    "trade_id": 7,
    "price": "1",
    "size": "1",
    "side": "buy",
    "sequence": 70,
}
TICKER = {"type": "ticker", "product_id": "BTC-USD", "sequence": 7, "price": "1"}
T0 = 1_782_864_000_000_001


@pytest.mark.parametrize(
    "frame",
    [
        UPDATE | {"changes": [["buy", "5.1e-7", "0.00000000"], ["sell", "1", "1E2"]]},
        UPDATE | {"changes": []},
        UPDATE | {"changes": None},
        UPDATE | {"time": None},
        BOOK | {"bids": [["1", "0.-10000"], ["1", None], ["0.5", "1", 3]]},
        BOOK | {"bids": [], "asks": None},
        MATCH | {"side": ""},
        MATCH | {"time": "", "sequence": None},
        TICKER | {"trade_id": None, "best_ask": "", "time": None},
        {"type": "heartbeat", "product_id": "BTC-USD", "sequence": 0, "last_trade_id": 0},
        {"type": "heartbeat", "product_id": "BTC-USD", "last_trade_id": None},
        {"type": "error", "message": None, "reason": None},
        {"type": "last_match", "product_id": "BTC-USD", "trade_id": 7},
    ],
)
def test_what_a_message_may_lack_costs_nothing(frame: dict[str, object]) -> None:
    parse(**frame)


@pytest.mark.parametrize(
    ("frame", "reason", "about"),
    [
        (UPDATE | {"changes": [["buy", "100.00", "0.-10000"]]}, "bad_decimal", "update"),
        (UPDATE | {"changes": [["buy", "NaN", "1"]]}, "bad_decimal", "update"),
        (UPDATE | {"changes": [["buy", "1e999999", "1"]]}, "bad_decimal", "update"),
        (UPDATE | {"changes": [["bid", "1", "1"]]}, "bad_side", "update"),
        (UPDATE | {"changes": [["buy", "1"]]}, "bad_field", "update"),
        (UPDATE | {"changes": [["buy", 1, 2]]}, "bad_field", "update"),
        (UPDATE | {"changes": {}}, "bad_field", "update"),
        (UPDATE | {"time": 5}, "bad_field", "update"),
        (BOOK | {"asks": {"1": "1"}}, "bad_field", "snapshot"),
        ({"type": "snapshot", "product_id": "BTC-USD", "bids": []}, "missing_field", "snapshot"),
        (MATCH | {"price": "0.-1"}, "bad_decimal", "trade"),
        (MATCH | {"size": 1}, "bad_field", "trade"),
        (MATCH | {"side": "BUY"}, "bad_side", "trade"),
        (TICKER | {"price": ""}, "bad_decimal", "ticker"),
        (TICKER | {"sequence": "7"}, "bad_field", "ticker"),
        ({"type": None, "product_id": "BTC-USD"}, "bad_field", "unknown"),
    ],
)
def test_what_cannot_be_read_says_what_it_was_about(
    frame: dict[str, object], reason: str, about: str
) -> None:
    feed, raw = CoinbaseFeed(), json.dumps(frame).encode()
    with pytest.raises(MalformedFrame) as refusal:
        feed.parse(raw)
    assert refusal.value.reason == reason
    event = feed.damaged(raw)
    assert (event.product, event.kind.value.removeprefix("book_")) == ("BTC-USD", about)
    assert event.number == (7 if about == "trade" else 0)
    if about == "update" and isinstance(frame["time"], str):
        assert event.time == T0


@pytest.mark.parametrize(
    ("frame", "kind", "product"),
    [
        (b'{"type":"l2update","product_id":"BTC-USD","chan', Kind.BOOK_UPDATE, "BTC-USD"),
        (b'{"product_id" : "ETH-USD", "type":"match","trade', Kind.TRADE, "ETH-USD"),
        (b'{"changes":[["buy","1","1"]],"ti', Kind.UNKNOWN, ""),
        (b'{"type":"l2update","changes":[]}', Kind.BOOK_UPDATE, ""),
        (b'["open","BTC-USD","x"]', Kind.ORDER, "BTC-USD"),
        (b"[", Kind.UNKNOWN, ""),
        (b"<html>", Kind.REFUSED, ""),
        (b"\xff", Kind.REFUSED, ""),
        (b"", Kind.REFUSED, ""),
        (b'{"type":"auction","product_id":7}', Kind.REFUSED, ""),
        (b'{"type":"match","trade_id":1e400}', Kind.TRADE, ""),
        (b"[" * 100_000, Kind.UNKNOWN, ""),
    ],
)
def test_what_a_damaged_frame_was_about_is_told_as_far_as_it_can(
    frame: bytes, kind: Kind, product: str
) -> None:
    event = CoinbaseFeed().damaged(frame)
    assert (event.kind, event.product, event.number) == (kind, product, 0)
