"""What happens to a venue's products beside trading: auctions, delisting, new numbers, silence."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.domain.book import BUY, SELL
from tools.simulator import Limits, SimulatedExchange
from tools.simulator.faults.feed_faults import NotPossible
from tools.simulator.market.matching import Matched, OrderBook
from tools.simulator.testing import FeedClient

PRODUCTS = ("BTC-USD", "ETH-USD", "DOGE-USD")


@pytest.fixture
async def exchange() -> AsyncIterator[SimulatedExchange]:
    async with SimulatedExchange(
        products=PRODUCTS,
        seed=9,
        rate=300,
        depth=40,
        paced=False,
        start_us=1_750_000_000_000_000,
        limits=Limits(rest_rate=0, rest_cache=False),
        untraded=("DOGE-USD",),
    ) as running:
        yield running


@pytest.fixture
async def rest(exchange: SimulatedExchange) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=exchange.rest_url) as connected:
        yield connected


orders = st.lists(
    st.tuples(st.sampled_from((BUY, SELL)), st.integers(90, 110), st.integers(1, 50)), max_size=40
)


@given(orders)
def test_an_auction_ends_with_nothing_crossed_and_nothing_lost(
    placed: list[tuple[str, int, int]],
) -> None:
    book = OrderBook()
    book.collecting = True
    for number, (side, price, size) in enumerate(placed):
        assert not any(
            isinstance(event, Matched) for event in book.limit(str(number), side, price, size)
        )
    limits = {str(number): (side, price) for number, (side, price, _) in enumerate(placed)}
    before = {side: sum(size for each, _, size in placed if each == side) for side in (BUY, SELL)}
    trades = [event for event in book.uncross() if isinstance(event, Matched)]
    assert len({trade.price for trade in trades}) <= 1
    for trade in trades:
        assert limits[trade.maker_order_id][1] <= trade.price <= limits[trade.taker_order_id][1]
    volume = sum(trade.size for trade in trades)
    for side in (BUY, SELL):
        rest = sum(level.size for _, level in book.half(side).walk())
        assert rest == before[side] - volume
    bid, ask = book.bids.best, book.asks.best
    assert bid is None or ask is None or bid < ask


async def test_an_auction_crosses_the_book_without_a_trade_and_ends_by_itself(
    exchange: SimulatedExchange, rest: httpx.AsyncClient
) -> None:
    exchange.control(auction={"products": ["BTC-USD"], "for_s": 3})
    before = exchange.state("BTC-USD").last_trade
    exchange.advance(2.9)
    state = exchange.state("BTC-USD")
    assert float(state.bids[0][0]) >= float(state.asks[0][0])
    assert state.last_trade == before
    book = (await rest.get("/products/BTC-USD/book?level=2")).json()
    assert book["auction_mode"] is True
    assert float(book["auction"]["best_bid_price"]) >= float(book["auction"]["best_ask_price"])
    assert (await rest.get("/products/BTC-USD")).json()["auction_mode"] is True
    exchange.advance(0.2)
    state = exchange.state("BTC-USD")
    assert float(state.bids[0][0]) < float(state.asks[0][0])
    assert before is not None
    assert state.last_trade is not None
    assert state.last_trade.trade_id > before.trade_id
    book = (await rest.get("/products/BTC-USD/book?level=1")).json()
    assert (book["auction_mode"], book["auction"]) == (False, None)


async def test_a_delisted_product_falls_silent_and_rest_refuses_it(
    exchange: SimulatedExchange, rest: httpx.AsyncClient
) -> None:
    async with FeedClient(exchange.ws_url) as client:
        await client.subscribe(["heartbeat", "matches", "ticker", "level2_batch"], PRODUCTS)
        await client.subscribe(["status"], [])
        exchange.advance(1)
        await client.until(lambda _: len(client.of("heartbeat")) == 3)
        exchange.control(delist=["ETH-USD"])
        told = (await client.until_type("status"))["products"]
        if {each["id"]: each["status"] for each in told}["ETH-USD"] == "online":
            # The first one answers the subscription.
            told = (await client.until_type("status"))["products"]
        assert {each["id"]: each["status"] for each in told}["ETH-USD"] == "delisted"
        seen = len(client.messages)
        exchange.advance(6)
        await client.until(lambda _: len(client.of("heartbeat", "BTC-USD")) == 7)
        late = [each.get("product_id") for each in client.messages[seen:]]
        assert "ETH-USD" not in late
        refused = await client.subscribe(["heartbeat"], ["ETH-USD"])
        assert refused["type"] == "error"
    answers = [
        (await rest.get(f"/products/ETH-USD/{path}")).status_code
        for path in ("book", "trades", "ticker")
    ]
    assert answers == [400, 400, 400]


async def test_numbers_begin_anew(exchange: SimulatedExchange, rest: httpx.AsyncClient) -> None:
    async with FeedClient(exchange.ws_url) as client:
        await client.subscribe(["heartbeat", "matches"], ["BTC-USD"])
        exchange.advance(1)
        high = (await client.until_type("heartbeat"))["sequence"]
        exchange.control(renumber=["BTC-USD"])
        exchange.advance(2)
        beat = await client.until_type("heartbeat")
        await client.until(lambda _: len(client.of("heartbeat")) == 3)
        assert beat["sequence"] < high
        state = exchange.state("BTC-USD")
        ids = [trade.trade_id for trade in state.tape.all()]
        assert ids == list(range(1, len(ids) + 1))
        assert [each["trade_id"] for each in client.of("match")][-len(ids) :] == ids
    rows = (await rest.get("/products/BTC-USD/trades")).json()
    assert [each["trade_id"] for each in rows] == ids[::-1]


async def test_a_product_that_nobody_trades_has_a_heartbeat_and_nothing_else(
    exchange: SimulatedExchange, rest: httpx.AsyncClient
) -> None:
    async with FeedClient(exchange.ws_url) as client:
        channels = ["heartbeat", "matches", "ticker", "level2_batch"]
        await client.subscribe(channels, ["DOGE-USD"])
        exchange.advance(3)
        await client.until(lambda _: len(client.of("heartbeat")) == 3)
    assert {each["type"] for each in client.messages} == {"subscriptions", "snapshot", "heartbeat"}
    (snapshot,) = client.of("snapshot")
    assert (snapshot["bids"], snapshot["asks"]) == ([], [])
    assert {each["last_trade_id"] for each in client.of("heartbeat")} == {0}
    assert (await rest.get("/products/DOGE-USD/trades")).json() == []


async def test_a_market_of_untraded_products_only_stands() -> None:
    async with SimulatedExchange(
        products=("DOGE-USD",), untraded=("DOGE-USD",), paced=False
    ) as exchange:
        exchange.advance(5)
        assert exchange.state("DOGE-USD").last_trade is None


async def test_what_the_market_cannot_do_is_refused_and_changes_nothing(
    exchange: SimulatedExchange, rest: httpx.AsyncClient
) -> None:
    wrong = {"delist": ["BTC-USD", "NO-PE"], "drop": {"probability": 1}}
    answer = await rest.post("/_control/faults", json=wrong)
    assert answer.status_code == 400
    assert "NO-PE" in answer.json()["message"]
    assert exchange.report()["faults"] == {}
    assert (await rest.get("/products/BTC-USD/book")).status_code == 200
    with pytest.raises(NotPossible):
        exchange.control(auction={"products": ["NO-PE"]})
