from __future__ import annotations

from collections.abc import AsyncIterator
from decimal import Decimal

import httpx
import pytest

from tools.simulator import Limits, SimulatedExchange
from tools.simulator.serving.rest import EdgeCache, RestAnswer
from tools.simulator.testing import FeedClient

PRODUCTS = ("BTC-USD", "ETH-USD")
OPEN = Limits(rest_rate=0, rest_cache=False)
# A whole second, so that a heartbeat ends each second that a test lets pass. By the machine's own
# clock it may come before any trade does.
START = 1_750_000_000_000_000


@pytest.fixture
async def exchange() -> AsyncIterator[SimulatedExchange]:
    async with SimulatedExchange(
        products=PRODUCTS,
        seed=5,
        rate=200,
        depth=40,
        paced=False,
        start_us=START,
        limits=OPEN,
    ) as running:
        yield running


@pytest.fixture
async def rest(exchange: SimulatedExchange) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=exchange.rest_url) as client:
        yield client


async def test_products_keep_the_delisted_ones(rest: httpx.AsyncClient) -> None:
    rows = {row["id"]: row for row in (await rest.get("/products")).json()}
    assert rows["BTC-USD"]["status"] == "online"
    assert rows["BTC-USD"]["quote_increment"] == "0.01"
    delisted = [row for row in rows.values() if row["status"] == "delisted"]
    assert delisted
    assert all(row["trading_disabled"] for row in delisted)
    assert (await rest.get("/products/ETH-USD")).json() == rows["ETH-USD"]


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("/products/NO-PE", 404, "NotFound"),
        ("/products/NO-PE/book", 404, "NotFound"),
        ("/nowhere", 404, "NotFound"),
        ("/products/REP-USD/ticker", 400, "Not allowed for delisted products"),
        ("/products/BTC-USD/book?level=4", 400, "Invalid level"),
        ("/products/BTC-USD/trades?limit=0", 400, "Invalid limit"),
        ("/products/BTC-USD/trades?before=x", 400, "Invalid before"),
    ],
)
async def test_a_refusal_is_a_status_and_a_message(
    rest: httpx.AsyncClient, path: str, status: int, message: str
) -> None:
    answer = await rest.get(path)
    assert (answer.status_code, answer.json()) == (status, {"message": message})


async def test_book_levels_agree_with_each_other_and_with_the_market(
    exchange: SimulatedExchange, rest: httpx.AsyncClient
) -> None:
    exchange.advance(2)
    books = [
        (await rest.get("/products/BTC-USD/book", params={"level": level})).json()
        for level in (1, 2, 3)
    ]
    best, aggregated, orders = books
    assert {book["sequence"] for book in books} == {exchange.state("BTC-USD").sequence}
    assert best["bids"] == aggregated["bids"][:1]
    for side in ("bids", "asks"):
        total: dict[Decimal, list[Decimal]] = {}
        for price, size, _ in orders[side]:
            total.setdefault(Decimal(price), []).append(Decimal(size))
        assert {(price, sum(sizes), len(sizes)) for price, sizes in total.items()} == {
            (Decimal(p), Decimal(s), n) for p, s, n in aggregated[side]
        }
    assert len(aggregated["time"].partition(".")[2]) == len("123456789Z")
    assert not any(price.endswith("0") for price, _, _ in aggregated["bids"] if "." in price)
    assert aggregated["auction_mode"] is False


async def test_both_bounds_of_trades_are_exclusive_and_the_newest_comes_first(
    exchange: SimulatedExchange, rest: httpx.AsyncClient
) -> None:
    last = exchange.state("BTC-USD").tape.all()[-1].trade_id
    answer = await rest.get("/products/BTC-USD/trades", params={"before": last - 11, "after": last})
    ids = [row["trade_id"] for row in answer.json()]
    assert ids == list(range(last - 1, last - 11, -1))
    assert answer.headers["CB-BEFORE"] == str(last - 1)
    assert answer.headers["CB-AFTER"] == str(last - 10)


async def test_paging_down_with_after_meets_every_trade_once(
    exchange: SimulatedExchange, rest: httpx.AsyncClient
) -> None:
    exchange.advance(3)
    truth = [each.trade_id for each in exchange.state("BTC-USD").tape.all()]
    got: list[int] = []
    params: dict[str, int] = {"limit": 97}
    while page := (await rest.get("/products/BTC-USD/trades", params=params)).json():
        got += [row["trade_id"] for row in page]
        params["after"] = got[-1]
    assert got == truth[::-1]


async def test_trades_tell_what_the_feed_told(
    exchange: SimulatedExchange, rest: httpx.AsyncClient
) -> None:
    async with FeedClient(exchange.ws_url) as client:
        await client.subscribe(["matches", "heartbeat"], ["BTC-USD"])
        exchange.advance(1)
        await client.until_type("heartbeat")
        fields = ("trade_id", "side", "size", "price", "time")
        told = [{name: each[name] for name in fields} for each in client.of("match")]
    rows = (await rest.get("/products/BTC-USD/trades", params={"limit": 1000})).json()
    assert told
    assert [row for row in rows if row["trade_id"] >= told[0]["trade_id"]][-len(told) :] == told[
        ::-1
    ]


async def test_the_ticker_is_the_last_trade_and_the_touch(
    exchange: SimulatedExchange, rest: httpx.AsyncClient
) -> None:
    exchange.advance(1)
    ticker = (await rest.get("/products/ETH-USD/ticker")).json()
    best = (await rest.get("/products/ETH-USD/book")).json()
    assert ticker["trade_id"] == exchange.state("ETH-USD").tape.all()[-1].trade_id
    assert (ticker["bid"], ticker["ask"]) == (best["bids"][0][0], best["asks"][0][0])


async def test_time_is_the_market_s_clock(
    exchange: SimulatedExchange, rest: httpx.AsyncClient
) -> None:
    before = (await rest.get("/time")).json()["epoch"]
    exchange.advance(5)
    assert (await rest.get("/time")).json()["epoch"] == pytest.approx(before + 5, abs=0.01)


async def test_more_requests_than_allowed_get_429() -> None:
    limits = Limits(rest_rate=0.001, rest_burst=15)
    async with (
        SimulatedExchange(products=PRODUCTS, paced=False, limits=limits) as exchange,
        httpx.AsyncClient(base_url=exchange.rest_url) as rest,
    ):
        codes = [(await rest.get("/time")).status_code for _ in range(17)]
        assert codes == [200] * 15 + [429] * 2
        # Watching and steering the simulation is no request of a client.
        assert (await rest.get("/_control")).status_code == 200


async def test_the_edge_repeats_an_answer_while_it_is_fresh() -> None:
    limits = Limits(rest_rate=0)
    async with (
        SimulatedExchange(products=PRODUCTS, paced=False, limits=limits) as exchange,
        httpx.AsyncClient(base_url=exchange.rest_url) as rest,
    ):
        first = await rest.get("/products")
        again = await rest.get("/products")
        assert (first.headers["CF-Cache-Status"], again.headers["CF-Cache-Status"]) == (
            "MISS",
            "HIT",
        )
        assert first.headers["Cache-Control"] == "public, max-age=5"
        assert first.headers["Age"] == "0"
        assert again.headers["Age"] == "1"
        book = await rest.get("/products/BTC-USD/book")
        assert "Age" not in book.headers


def test_an_answer_is_stale_for_at_most_its_max_age() -> None:
    cache = EdgeCache()
    cache.keep("/x", RestAnswer(200, b"old", {}, max_age=1), 10.0)
    held = cache.find("/x", 10.9)
    assert held is not None
    assert (held.body, held.headers["Age"]) == (b"old", "1")
    assert cache.find("/x", 11.0) is None


def test_failures_are_never_cached() -> None:
    cache = EdgeCache()
    cache.keep("/x", RestAnswer(500, b"", {}, max_age=1), 10.0)
    assert cache.find("/x", 10.1) is None
