"""What the venue has been seen to write, switched on over real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from decimal import Decimal
from random import Random
from typing import get_args

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.domain.book import BadLevel, Book
from tools.simulator import Limits, SimulatedExchange
from tools.simulator.faults.oddities import HUGE, UNREADABLE, WILD_STEP, OddKind, distort, exponent
from tools.simulator.protocol.messages import L2Update, Outgoing
from tools.simulator.testing import FeedClient

PRODUCTS = ("BTC-USD", "ETH-USD")
CHANNELS = ["matches", "heartbeat", "ticker", "level2_batch"]


@pytest.fixture
async def exchange() -> AsyncIterator[SimulatedExchange]:
    async with SimulatedExchange(
        products=PRODUCTS,
        seed=9,
        rate=200,
        depth=40,
        paced=False,
        start_us=1_750_000_000_000_000,
        limits=Limits(rest_rate=0, rest_cache=False),
    ) as running:
        yield running


@pytest.fixture
async def client(exchange: SimulatedExchange) -> AsyncIterator[FeedClient]:
    async with FeedClient(exchange.ws_url) as connected:
        await connected.subscribe(CHANNELS, PRODUCTS)
        yield connected


async def two_seconds(exchange: SimulatedExchange, client: FeedClient) -> None:
    exchange.advance(2)
    await client.until(lambda _: len(client.of("heartbeat")) == 4)


@given(st.decimals(min_value=0, allow_nan=False, allow_infinity=False, places=8))
def test_exponent_notation_says_the_same_number(number: Decimal) -> None:
    text = exponent(f"{number:f}")
    assert "e" in text
    assert Decimal(text) == number


async def test_exponents_say_what_the_plain_message_says(
    exchange: SimulatedExchange, client: FeedClient
) -> None:
    exchange.control(odd={"exponent": {"probability": 1}})
    await two_seconds(exchange, client)
    truth = {each.trade_id: each for each in exchange.state("BTC-USD").tape.all()}
    for each in client.of("match", "BTC-USD"):
        assert "e" in each["price"]
        assert Decimal(each["price"]) == Decimal(truth[each["trade_id"]].price)
        assert Decimal(each["size"]) == Decimal(truth[each["trade_id"]].size)
    for each in client.of("l2update"):
        assert all("e" in text for change in each["changes"] for text in change[1:])
    counts = exchange.report()["messages"]["match"]
    assert counts["odd_exponent"] == counts["sent"]


@pytest.mark.parametrize(("kind", "gone"), [("empty", ""), ("absent", None)])
async def test_only_optional_fields_are_left_empty_or_out(
    exchange: SimulatedExchange, client: FeedClient, kind: str, gone: str | None
) -> None:
    await client.until(lambda _: len(client.of("ticker")) == 2)
    exchange.control(odd={kind: {"probability": 1, "types": ["ticker"]}})
    await two_seconds(exchange, client)
    seen = set()
    for each in client.of("ticker")[2:]:
        assert {"type", "product_id", "sequence", "price", "trade_id", "time"} <= each.keys()
        fields = ("best_bid", "best_ask", "open_24h", "last_size", "side")
        seen |= {name for name in fields if each.get(name, None) == gone}
    assert "best_ask" in seen
    assert "side" in seen


async def test_a_counted_oddity_hits_only_what_can_show_it(
    exchange: SimulatedExchange, client: FeedClient
) -> None:
    exchange.control(odd={"bad_size": {"count": 1}, "wild_trade_id": {"count": 1}})
    await two_seconds(exchange, client)
    odd = [each for each in client.messages if UNREADABLE in msgspec.json.encode(each).decode()]
    assert len(odd) == 1
    report = exchange.report()["faults"]["odd"]
    assert {kind: rule["hits"] for kind, rule in report.items()} == {
        "bad_size": 1,
        "wild_trade_id": 1,
    }


async def test_an_unreadable_size_breaks_a_reader_and_not_the_market(
    exchange: SimulatedExchange, client: FeedClient
) -> None:
    exchange.control(odd={"bad_size": {"count": 1, "types": ["l2update"], "products": ["ETH-USD"]}})
    await two_seconds(exchange, client)
    (odd,) = [
        each
        for each in client.of("l2update", "ETH-USD")
        if any(change[2] == UNREADABLE for change in each["changes"])
    ]
    with pytest.raises(BadLevel):
        Book().apply(odd["changes"])


async def test_wild_numbers_are_far_away_and_the_next_is_right_again(
    exchange: SimulatedExchange, client: FeedClient
) -> None:
    exchange.control(
        odd={
            "wild_trade_id": {"count": 1, "types": ["match"], "products": ["BTC-USD"]},
            "huge_sequence": {"count": 1, "types": ["ticker"], "products": ["BTC-USD"]},
        }
    )
    await two_seconds(exchange, client)
    wild, following = client.of("match", "BTC-USD")[:2]
    assert wild["trade_id"] - WILD_STEP == following["trade_id"] - 1
    assert HUGE in [each["sequence"] for each in client.of("ticker", "BTC-USD")]


@pytest.mark.parametrize("kind", get_args(OddKind))
def test_the_same_seed_makes_the_same_oddity(kind: OddKind) -> None:
    update = L2Update("BTC-USD", [("buy", "1.00", "2"), ("sell", "3.00", "0")], "2026-01-01T00:00Z")
    message = Outgoing(("level2_batch",), "BTC-USD", "l2update", update)
    one, other = (distort(kind, message, Random(3)) for _ in range(2))
    assert one == other


async def test_a_message_can_be_lost_on_one_connection_only(exchange: SimulatedExchange) -> None:
    async with FeedClient(exchange.ws_url) as one, FeedClient(exchange.ws_url) as other:
        for client in (one, other):
            await client.subscribe(["matches", "heartbeat"], ["BTC-USD"])
        exchange.control(drop={"count": 3, "types": ["match"], "one_connection": True})
        exchange.advance(2)
        await one.until(lambda _: len(one.of("heartbeat")) == 2)
        await other.until(lambda _: len(other.of("heartbeat")) == 2)
    whole = [each["trade_id"] for each in other.of("match")]
    assert [each["trade_id"] for each in one.of("match")] == whole[3:]
    counts = exchange.report()["messages"]["match"]
    assert counts["dropped_for_one"] == 3
    assert counts["sent"] == 2 * len(whole) - 3


@pytest.mark.parametrize(
    ("kind", "status", "error"),
    [
        ("html", 200, msgspec.DecodeError),
        ("html", 502, msgspec.DecodeError),
        ("undecodable", 200, httpx.DecodingError),
        ("cut", 200, msgspec.DecodeError),
        ("not_json", 200, msgspec.DecodeError),
        ("empty", 200, msgspec.DecodeError),
    ],
)
async def test_rest_answers_what_cannot_be_read(
    exchange: SimulatedExchange, kind: str, status: int, error: type[Exception]
) -> None:
    exchange.control(rest={"answer": kind, "status": status, "count": 1, "paths": ["/BTC-USD/"]})
    async with httpx.AsyncClient(base_url=exchange.rest_url) as rest:
        assert (await rest.get("/products/ETH-USD/trades")).json()
        async with rest.stream("GET", "/products/BTC-USD/trades") as answer:
            assert answer.status_code == status
            with pytest.raises(error):
                msgspec.json.decode(await answer.aread())
        assert (await rest.get("/products/BTC-USD/trades")).json()


async def test_one_product_is_refused_while_the_others_are_answered(
    exchange: SimulatedExchange,
) -> None:
    exchange.control(rest={"status": 404, "paths": ["/BTC-USD/"]})
    async with httpx.AsyncClient(base_url=exchange.rest_url) as rest:
        assert (await rest.get("/products/BTC-USD/book")).status_code == 404
        assert (await rest.get("/products/ETH-USD/book")).status_code == 200


@pytest.mark.parametrize("kind", ["error", "rate_error"])
async def test_an_error_frame_may_name_no_product(
    exchange: SimulatedExchange, client: FeedClient, kind: str
) -> None:
    exchange.control(garbage={"kind": kind})
    error = await client.until_type("error")
    assert "product_id" not in error
    assert "-USD" not in f"{error}"


async def test_data_comes_before_the_acknowledgement(exchange: SimulatedExchange) -> None:
    exchange.control(answers={"ack_late": {"count": 1, "by": 3}})
    async with FeedClient(exchange.ws_url) as client:
        request = {"type": "subscribe", "product_ids": ["BTC-USD"], "channels": ["heartbeat"]}
        await client.send(request)
        while not exchange.hub.wanted(("heartbeat", "BTC-USD")):
            pong = await client.socket.ping()
            await pong
        exchange.advance(4)
        await client.until_type("subscriptions")
        assert len(client.of("heartbeat")) >= 3
        # The next request is answered as usual.
        assert (await client.subscribe(["matches"], ["BTC-USD"]))["type"] == "subscriptions"
        assert client.messages[-1]["type"] == "subscriptions"


async def test_a_part_is_acknowledged_and_the_rest_is_a_rate_error(
    exchange: SimulatedExchange,
) -> None:
    exchange.control(answers={"part": {"count": 1, "products": ["ETH-USD"]}})
    async with FeedClient(exchange.ws_url) as client:
        ack = await client.subscribe(["heartbeat", "matches"], PRODUCTS)
        assert {tuple(each["product_ids"]) for each in ack["channels"]} == {("BTC-USD",)}
        assert "product" not in f"{await client.until_type('error')}"
        exchange.advance(2)
        await client.until(lambda _: len(client.of("heartbeat", "BTC-USD")) == 2)
        assert client.of("heartbeat", "ETH-USD") == []
        again = await client.subscribe(["heartbeat", "matches"], ["ETH-USD"])
        assert all("ETH-USD" in each["product_ids"] for each in again["channels"])


async def test_a_part_is_half_of_what_was_asked(exchange: SimulatedExchange) -> None:
    exchange.control(answers={"part": {"probability": 1}})
    async with FeedClient(exchange.ws_url) as client:
        ack = await client.subscribe(["heartbeat"], PRODUCTS)
    assert [len(each["product_ids"]) for each in ack["channels"]] == [1]


async def test_a_refusal_may_name_no_product_and_nothing_is_subscribed(
    exchange: SimulatedExchange,
) -> None:
    exchange.control(answers={"error": {"count": 1}})
    async with FeedClient(exchange.ws_url) as client:
        refused = await client.subscribe(["heartbeat"], PRODUCTS)
        assert refused["type"] == "error"
        assert "USD" not in f"{refused}"
        assert exchange.report()["subscriptions"] == 0
        assert (await client.subscribe(["heartbeat"], PRODUCTS))["type"] == "subscriptions"


async def test_a_snapshot_may_come_after_the_first_updates(exchange: SimulatedExchange) -> None:
    exchange.control(
        answers={"snapshot_late": {"count": 1, "by": 4, "products": ["BTC-USD"]}},
    )
    async with FeedClient(exchange.ws_url) as client:
        await client.subscribe(["level2"], PRODUCTS, signed_by=exchange.config.credentials)
        await client.until(lambda _: client.of("snapshot", "ETH-USD"))
        # In steps, as a market with a clock does it: a snapshot is due between two of them.
        for _ in range(10):
            exchange.advance(0.1)
        await client.until_type("snapshot")
        before = len(client.of("l2update", "BTC-USD"))
        assert before >= 4
        exchange.advance(1)
        quiet = len(client.messages)
        await client.subscribe(["heartbeat"], ["BTC-USD"])
        assert len(client.messages) > quiet
    (snapshot,) = client.of("snapshot", "BTC-USD")
    book = Book()
    book.replace(snapshot["bids"], snapshot["asks"])
    for update in client.of("l2update", "BTC-USD")[before:]:
        book.apply(update["changes"])
    state = exchange.state("BTC-USD")
    truth = Book()
    truth.replace([row[:2] for row in state.bids], [row[:2] for row in state.asks])
    assert book == truth
