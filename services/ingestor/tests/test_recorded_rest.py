"""The REST client on recorded answers: cassettes of the simulated exchange, and real captures.

The cassettes are made anew by `pytest services/ingestor/tests/test_recorded_rest.py
--record-mode=rewrite`, which runs the exchange for it.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.common.errors import VenueRefused
from services.common.runtime import serve_http
from services.ingestor.cb_rest import CoinbaseRest
from services.ingestor.integrity.order_book import OrderBook
from services.ingestor.venues.base import Kind
from services.ingestor.venues.coinbase import CoinbaseFeed
from tools.simulator import SimulatedExchange

PORT = 18_765
URL = f"http://127.0.0.1:{PORT}"
PRODUCTS = ("BTC-USD", "ETH-USD")
START_US = 1_783_465_097_000_000


@pytest.fixture
async def rest(record_mode: str) -> AsyncIterator[CoinbaseRest]:
    """The client; an exchange is behind it only while a cassette is made."""
    async with AsyncExitStack() as stack:
        if record_mode != "none":
            exchange = SimulatedExchange(
                port=PORT, products=PRODUCTS, seed=7, depth=8, paced=False, start_us=START_US
            )
            await stack.enter_async_context(exchange)
            exchange.advance(20)
        yield await stack.enter_async_context(CoinbaseRest(URL))


@pytest.mark.vcr
async def test_a_recorded_list_of_products_tells_the_delisted_ones_apart(
    rest: CoinbaseRest,
) -> None:
    known = await rest.tradable()
    assert [known[product] for product in PRODUCTS] == [None, None]
    assert "status delisted" in known.values()


@pytest.mark.vcr
async def test_a_recorded_delisted_product_is_refused_by_every_other_call(
    rest: CoinbaseRest,
) -> None:
    (delisted, *_) = [name for name, why in (await rest.tradable()).items() if why]
    for call in (rest.ticker(delisted), rest.book(delisted), rest.trades(delisted, 1, 2)):
        with pytest.raises(VenueRefused, match="delisted"):
            await call


@pytest.mark.vcr
async def test_a_recorded_ticker_trades_and_books_belong_together(rest: CoinbaseRest) -> None:
    ticker = await rest.ticker("BTC-USD")
    trades = await rest.trades("BTC-USD", ticker.trade_id - 5, ticker.trade_id)
    assert [row.trade_id for row in trades] == list(range(ticker.trade_id - 5, ticker.trade_id + 1))
    assert trades[-1].time == ticker.time
    book, orders = await rest.book("BTC-USD"), await rest.orders("BTC-USD")
    assert (book.sequence, book.time, book.auction) == (orders.sequence, orders.time, False)
    levels = OrderBook()
    levels.load(orders.bids, orders.asks)
    shown = json.loads(book.body)
    assert levels.levels() == (
        [(price, size) for price, size, _ in shown["bids"]],
        [(price, size) for price, size, _ in shown["asks"]],
    )


# ---------------------------------------------------------------- real answers


@asynccontextmanager
async def answering(body: bytes) -> AsyncIterator[CoinbaseRest]:
    """A client of a server that has one answer."""

    async def respond(_: Request) -> Response:
        return Response(body, media_type="application/json")

    app = Starlette(routes=[Route("/{path:path}", respond)])
    async with (
        serve_http(app, "127.0.0.1", 0) as port,
        CoinbaseRest(f"http://127.0.0.1:{port}") as rest,
    ):
        yield rest


async def test_every_captured_book_is_read(captures: Path) -> None:
    """With and without times (nine digits), auction fields and trailing zeros."""
    found = 0
    for path in sorted((captures / "coinbase").glob("*book*.json")):
        body = path.read_bytes()
        async with answering(body) as rest:
            if "level-3" in path.name:
                orders = await rest.orders("BTC-USD")
                written = json.loads(body)
                assert len(orders.bids) == len(written["bids"])
                assert len(orders.asks) == len(written["asks"])
                book = OrderBook()
                book.load(orders.bids, orders.asks)
                bids, asks = book.levels()
                assert float(bids[0][0]) < float(asks[0][0])
            else:
                image = await rest.book("BTC-USD")
                assert image.sequence > 0
                assert not image.auction
        found += 1
    assert found >= 5


async def test_captured_trades_of_three_fraction_digits_are_read(captures: Path) -> None:
    body = (captures / "coinbase" / "rest_products_BTC-EUR_trades_GET-200.json").read_bytes()
    ids = [row["trade_id"] for row in json.loads(body)]
    async with answering(body) as rest:
        rows = await rest.trades("BTC-EUR", min(ids), max(ids))
    assert [row.trade_id for row in rows] == sorted(ids)
    # 2020-02-17T07:23:16.353Z
    assert rows[-1].time == 1_581_924_196_353_000


async def test_the_products_of_a_captured_status_message_are_read(captures: Path) -> None:
    frame = (captures / "coinbase" / "ws_status_status.json").read_bytes()
    assert CoinbaseFeed().parse(frame).kind is Kind.UNKNOWN
    products = json.loads(frame)["products"]
    async with answering(json.dumps(products).encode()) as rest:
        known = await rest.tradable()
    assert len(known) == len(products) == 74
    assert {row["id"] for row in products} == set(known)


async def test_auction_mode_is_told_and_its_absence_means_none() -> None:
    book = '{"bids":[],"asks":[],"sequence":5%s}'
    for extra, auction in (
        (',"auction_mode":true,"auction":{"open_price":"1"}', True),
        (',"auction_mode":false,"auction":null', False),
        (',"auction_mode":null', False),
        ("", False),
    ):
        async with answering((book % extra).encode()) as rest:
            assert (await rest.book("BTC-USD")).auction is auction


@pytest.mark.parametrize("digits", range(10))
async def test_times_of_rest_answers_have_zero_to_nine_fraction_digits(digits: int) -> None:
    fraction = f".{'123456789'[:digits]}" if digits else ""
    body = f'{{"trade_id":7,"price":"1","time":"2026-07-07T22:58:17{fraction}Z"}}'
    async with answering(body.encode()) as rest:
        quote = await rest.ticker("BTC-USD")
    micros = int("123456789"[: min(digits, 6)].ljust(6, "0")) if digits else 0
    assert quote.time == 1_783_465_097_000_000 + micros


async def test_pitfall_13_a_row_that_makes_no_sense_does_not_cost_the_book_of_orders() -> None:
    body = b'{"bids":[["10","0.-10000","a"],["9","1","b"]],"asks":[],"sequence":5}'
    async with answering(body) as rest:
        assert (await rest.orders("BTC-USD")).bids == [("9", "1", "b")]


def test_every_message_of_the_captured_full_feed_is_understood(captures: Path) -> None:
    feed = CoinbaseFeed(orders=True)
    for line in (captures / "coinbase" / "full_2017-06-25.ndjson").read_bytes().splitlines():
        event = feed.parse(line)
        assert event.kind in (Kind.ORDER, Kind.HEARTBEAT)
        assert event.time > 0
        assert re.fullmatch(r"[A-Z]+-[A-Z]+", event.product)
