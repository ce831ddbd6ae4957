"""Rows of `level3`: the same life of orders as `full`, in another form."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.domain.book import Book
from services.ingestor.integrity.order_book import OrderBook
from services.ingestor.venues.base import Event, Kind, MalformedFrame, OrderAction, OrderEvent
from services.ingestor.venues.coinbase import CoinbaseFeed
from services.ingestor.venues.level3 import CELLS, differences
from tools.simulator.market.market import MarketModel, ModelSettings
from tools.simulator.market.traffic import PLAIN, VENUE, Traffic
from tools.simulator.protocol.messages import LEVEL3_SCHEMA, Channel

TIME = "2026-07-07T22:58:17.050195Z"
MICROS = 1_783_465_097_050_195


def parse(*cells: object) -> Event:
    return CoinbaseFeed().parse(json.dumps(cells).encode())


def order(*cells: object) -> OrderEvent | None:
    event = parse(*cells)
    assert (event.kind, event.product, event.number) == (Kind.ORDER, "BTC-USD", 7)
    return event.order


def test_every_type_of_row_is_understood() -> None:
    head = ("BTC-USD", "7")
    assert order("noop", *head, TIME) == OrderEvent(7, MICROS, OrderAction.NONE)
    assert order("done", *head, "a", TIME) == OrderEvent(7, MICROS, OrderAction.DONE, "a")
    opened = order("open", *head, "a", "sell", "84737.58", "0.0100", TIME)
    assert opened is not None
    assert opened[2:6] == (OrderAction.OPEN, "a", "sell", "84737.58")
    assert str(opened.size) == "0.0100"
    match = order("match", *head, "maker", "taker", "84737.58", "0.01", TIME)
    assert match is not None
    assert match[2:4] == (OrderAction.MATCH, "maker")
    change = order("change", *head, "a", "84737.57", "0.02", TIME)
    assert change is not None
    assert change[2:6] == (OrderAction.CHANGE, "a", "", "84737.57")
    unpriced = order("change", *head, "a", None, "0.02", TIME)
    assert unpriced is not None
    assert unpriced.price == ""


def test_a_number_instead_of_its_text_and_cells_behind_the_known_ones_do_no_harm() -> None:
    assert order("done", "BTC-USD", 7, "a", TIME, "new") == order("done", "BTC-USD", "7", "a", TIME)


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (b"[", "bad_json"),
        (b'["noop"', "bad_json"),
        (b'["\xff"]', "bad_json"),
        (b"[]", "bad_field"),
        (b"[[]]", "bad_field"),
        (b'[null,"BTC-USD","7","x"]', "bad_field"),
        (b'["weather","BTC-USD","7","x"]', "bad_field"),
        (b'["noop","BTC-USD","7"]', "missing_field"),
        (b'["noop","","7","x"]', "missing_field"),
        (b'["noop",null,"7","x"]', "missing_field"),
        (b'["noop","BTC-USD","0","x"]', "bad_field"),
        (b'["noop","BTC-USD","-7","x"]', "bad_field"),
        (b'["noop","BTC-USD","1_0","x"]', "bad_field"),
        (b'["noop","BTC-USD","99999999999999999999","x"]', "bad_field"),
        # Above what a log takes everywhere, though it is a number like any other.
        (b'["noop","BTC-USD","9007199254740992","x"]', "bad_field"),
        (b'["done","BTC-USD","7","","x"]', "missing_field"),
        (b'["open","BTC-USD","7","a","ask","1","1","x"]', "bad_field"),
        (b'["open","BTC-USD","7","a","buy","1e300","1","x"]', "bad_decimal"),
        (b'["open","BTC-USD","7","a","buy","1",null,"x"]', "bad_decimal"),
        (b'["match","BTC-USD","7","a","b","1","-1","x"]', "bad_decimal"),
        (b'["change","BTC-USD","7","a","x","1","x"]', "bad_decimal"),
    ],
)
def test_a_malformed_row_says_how(frame: bytes, reason: str) -> None:
    with pytest.raises(MalformedFrame) as caught:
        CoinbaseFeed().parse(frame)
    assert caught.value.reason == reason


@given(st.lists(st.none() | st.integers() | st.text() | st.sampled_from(sorted(CELLS))))
def test_no_row_is_worse_than_malformed(cells: list[object]) -> None:
    try:
        event = parse(*cells)
    except MalformedFrame:
        return
    assert event.kind is Kind.ORDER
    assert event.number > 0


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 5), st.sampled_from((PLAIN, VENUE)))
def test_rows_and_messages_of_full_say_the_same_of_every_market(
    seed: int, seconds: int, traffic: Traffic
) -> None:
    model = MarketModel(ModelSettings(["BTC-USD"], seed, depth=20, traffic=traffic), MICROS)
    state = model.state("BTC-USD", orders=True)
    rows = [
        [(price, size, order_id) for side, price, size, order_id in state.orders or () if side == s]
        for s in ("buy", "sell")
    ]
    feed = CoinbaseFeed(orders=True)
    books = {Channel.FULL: OrderBook(), Channel.LEVEL3: OrderBook()}
    for book in books.values():
        book.load(*rows)
    numbers: dict[str, list[int]] = {Channel.FULL: [], Channel.LEVEL3: []}
    for message in model.advance(model.now_us + seconds * 1_000_000):
        for channel in {Channel.FULL, Channel.LEVEL3}.intersection(message.channels):
            event = feed.parse(message.encoded()).order
            if event is not None:
                numbers[channel].append(event.sequence)
                books[channel].apply(event)
    assert numbers[Channel.FULL] == numbers[Channel.LEVEL3]
    assert books[Channel.FULL].levels() == books[Channel.LEVEL3].levels()
    truth, level3 = Book(), Book()
    state = model.state("BTC-USD")
    truth.replace([row[:2] for row in state.bids], [row[:2] for row in state.asks])
    level3.replace(*books[Channel.LEVEL3].levels())
    assert level3 == truth


def schema(cells: dict[str, list[str]]) -> bytes:
    return json.dumps({"type": "level3", "schema": cells}).encode()


def test_the_documented_schema_is_what_rows_are_read_by() -> None:
    assert differences(LEVEL3_SCHEMA) == []
    assert CoinbaseFeed().parse(schema(LEVEL3_SCHEMA)).kind is Kind.SUBSCRIBED


def test_rows_of_another_schema_are_refused_until_a_known_one_is_announced() -> None:
    feed = CoinbaseFeed()
    row = json.dumps(["noop", "BTC-USD", "7", TIME]).encode()
    swapped = LEVEL3_SCHEMA | {"open": [*LEVEL3_SCHEMA["open"][:5], "size", "price", "time"]}
    for frame in (schema(swapped), row):
        with pytest.raises(MalformedFrame) as caught:
            feed.parse(frame)
        assert caught.value.reason == "unknown_schema"
    added = LEVEL3_SCHEMA | {"done": [*LEVEL3_SCHEMA["done"], "reason"], "auction": ["type"]}
    feed.parse(schema(added))
    assert feed.parse(row).kind is Kind.ORDER
    with pytest.raises(MalformedFrame):
        feed.parse(b'{"type":"level3"}')
