"""The feed over real sockets. The market stands still unless a test moves it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import httpx
import msgspec
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from services.common.domain.book import Book
from tools.simulator import Credentials, Limits, SimulatedExchange
from tools.simulator.testing import FeedClient, Message

PRODUCTS = ("BTC-USD", "ETH-USD", "SHIB-USD")
START = 1_750_000_000_000_000


@pytest.fixture
async def exchange() -> AsyncIterator[SimulatedExchange]:
    async with SimulatedExchange(
        products=PRODUCTS, seed=3, rate=150, depth=40, paced=False, start_us=START
    ) as running:
        yield running


@pytest.fixture
async def client(exchange: SimulatedExchange) -> AsyncIterator[FeedClient]:
    async with FeedClient(exchange.ws_url) as connected:
        yield connected


def fold(messages: list[Message]) -> Book:
    book = Book()
    for message in messages:
        if message["type"] == "snapshot":
            book.replace(message["bids"], message["asks"])
        elif message["type"] == "l2update":
            book.apply(message["changes"])
    return book


def true_book(exchange: SimulatedExchange, product: str) -> Book:
    state = exchange.state(product)
    book = Book()
    book.replace([row[:2] for row in state.bids], [row[:2] for row in state.asks])
    return book


async def test_the_ack_holds_the_whole_set_under_the_venue_s_own_names(client: FeedClient) -> None:
    await client.subscribe(["level2_batch", "heartbeat"], ["BTC-USD"])
    ack = await client.subscribe(
        [{"name": "ticker_batch", "product_ids": ["ETH-USD"]}, "heartbeat"], ["SHIB-USD"]
    )
    assert ack == {
        "type": "subscriptions",
        "channels": [
            {"name": "level2_50", "product_ids": ["BTC-USD"], "account_ids": None},
            {"name": "heartbeat", "product_ids": ["BTC-USD", "SHIB-USD"], "account_ids": None},
            {"name": "ticker_1000", "product_ids": ["ETH-USD", "SHIB-USD"], "account_ids": None},
        ],
    }


async def test_one_bad_product_rejects_the_whole_request(client: FeedClient) -> None:
    answer = await client.subscribe(["ticker"], ["BTC-USD", "XX-YY"])
    assert answer == {
        "type": "error",
        "message": "Failed to subscribe",
        "reason": "XX-YY is not a valid product",
    }
    ack = await client.subscribe(["heartbeat"], ["BTC-USD"])
    assert [channel["name"] for channel in ack["channels"]] == ["heartbeat"]


async def test_a_delisted_product_is_not_a_valid_one(client: FeedClient) -> None:
    answer = await client.subscribe(["ticker"], ["REP-USD"])
    assert answer["reason"] == "REP-USD is not a valid product"


@pytest.mark.parametrize("channel", ["level2", "level3", "full"])
async def test_order_channels_need_a_signature(client: FeedClient, channel: str) -> None:
    refused = await client.subscribe([channel], ["BTC-USD"])
    assert refused["reason"].startswith(
        "level2, level3, and full channels now require authentication."
    )
    forged = await client.subscribe(
        [channel], ["BTC-USD"], signed_by=Credentials(secret="b3RoZXI=")
    )
    assert (forged["message"], forged["reason"]) == ("Authentication Failed", "invalid signature")
    ack = await client.subscribe([channel], ["BTC-USD"], signed_by=Credentials())
    assert ack["type"] == "subscriptions"


@pytest.mark.parametrize(
    ("request_text", "answer"),
    [
        ("{nonsense", {"type": "error", "message": "Malformed JSON"}),
        (
            '{"type":"hello"}',
            {
                "type": "error",
                "message": "Failed to subscribe",
                "reason": "Type has to be either subscribe or unsubscribe",
            },
        ),
        (
            '{"type":"subscribe","product_ids":["BTC-USD"]}',
            {
                "type": "error",
                "message": "Failed to subscribe",
                "reason": "No channels provided",
            },
        ),
        (
            '{"type":"subscribe","channels":["heartbeat"]}',
            {
                "type": "error",
                "message": "Failed to subscribe",
                "reason": "You need to specify at least one product ID for channel heartbeat",
            },
        ),
        (
            '{"type":"subscribe","product_ids":["BTC-USD"],"channels":["weather"]}',
            {
                "type": "error",
                "message": "Failed to subscribe",
                "reason": "weather is not a valid channel",
            },
        ),
    ],
)
async def test_a_bad_request_is_answered_and_the_connection_lives_on(
    client: FeedClient, request_text: str, answer: Message
) -> None:
    await client.socket.send(request_text)
    assert await client.receive() == answer
    assert (await client.subscribe(["ticker"], ["BTC-USD"]))["type"] == "subscriptions"


async def test_a_client_that_subscribes_nothing_is_disconnected() -> None:
    limits = Limits(subscribe_deadline_s=0.05)
    async with (
        SimulatedExchange(products=PRODUCTS, paced=False, limits=limits) as exchange,
        FeedClient(exchange.ws_url) as client,
    ):
        with pytest.raises(ConnectionClosed):
            await client.receive()


async def test_a_refused_subscription_does_not_count_as_one() -> None:
    limits = Limits(subscribe_deadline_s=0.2)
    async with (
        SimulatedExchange(products=PRODUCTS, paced=False, limits=limits) as exchange,
        FeedClient(exchange.ws_url) as client,
    ):
        await client.subscribe(["ticker"], ["XX-YY"])
        with pytest.raises(ConnectionClosed):
            await client.receive()


async def test_compression_is_negotiated_when_the_client_offers_it(
    exchange: SimulatedExchange,
) -> None:
    async with connect(exchange.ws_url) as offered:
        assert "permessage-deflate" in offered.response.headers["Sec-WebSocket-Extensions"]  # type: ignore[union-attr]  # set after the handshake
    async with connect(exchange.ws_url, compression=None) as plain:
        assert "Sec-WebSocket-Extensions" not in plain.response.headers  # type: ignore[union-attr]  # set after the handshake


async def test_the_first_ticker_repeats_the_last_match(
    exchange: SimulatedExchange, client: FeedClient
) -> None:
    await client.subscribe(["matches", "ticker"], ["ETH-USD"])
    match = await client.until_type("last_match")
    ticker = await client.until_type("ticker")
    assert (ticker["sequence"], ticker["trade_id"]) == (match["sequence"], match["trade_id"])
    assert match["trade_id"] == exchange.state("ETH-USD").tape.all()[-1].trade_id


async def test_matches_continue_after_the_last_match_without_a_hole(
    exchange: SimulatedExchange, client: FeedClient
) -> None:
    await client.subscribe(["matches", "heartbeat"], ["BTC-USD"])
    exchange.advance(10)
    await client.until(lambda each: len(client.of("heartbeat")) == 10)
    (last,) = client.of("last_match")
    ids = [each["trade_id"] for each in client.of("match")]
    assert len(ids) > 50
    assert ids == list(range(last["trade_id"] + 1, last["trade_id"] + 1 + len(ids)))


async def test_heartbeats_agree_with_the_matches_before_them(
    exchange: SimulatedExchange, client: FeedClient
) -> None:
    await client.subscribe(["matches", "heartbeat"], PRODUCTS)
    exchange.advance(5)
    await client.until(lambda each: len(client.of("heartbeat")) == 5 * len(PRODUCTS))
    newest: dict[str, int] = {}
    for message in client.messages:
        if message["type"] in ("match", "last_match"):
            newest[message["product_id"]] = message["trade_id"]
        if message["type"] == "heartbeat":
            assert message["last_trade_id"] == newest[message["product_id"]]
            assert message["time"].endswith(".000000Z")


async def test_folding_the_level2_batches_gives_the_market_s_book(
    exchange: SimulatedExchange, client: FeedClient
) -> None:
    exchange.advance(0.333)
    await client.subscribe(["level2_batch"], PRODUCTS)
    exchange.advance(4)
    for name in PRODUCTS:
        # Changes wait up to 50 ms for their batch, so the two meet when nothing is waiting.
        for _ in range(100):
            if await fold_so_far(client, name) == true_book(exchange, name):
                break
            exchange.advance(0.01)
        else:
            pytest.fail(f"the fold of {name} never met the market's book")
    assert len(client.of("l2update")) > 100


async def fold_so_far(client: FeedClient, product: str) -> Book:
    """The fold of everything sent so far: a request's answer comes behind all of it."""
    await client.subscribe(["heartbeat"], [product])
    return fold([each for each in client.messages if each.get("product_id") == product])


async def test_level2_is_in_step_with_the_book_after_every_change(
    exchange: SimulatedExchange, client: FeedClient
) -> None:
    await client.subscribe(["level2"], ["BTC-USD"], signed_by=Credentials())
    for _ in range(20):
        exchange.advance(0.1)
        assert await fold_so_far(client, "BTC-USD") == true_book(exchange, "BTC-USD")
    assert all(len(each["changes"]) == 1 for each in client.of("l2update"))


async def test_the_full_channel_is_contiguous_and_rebuilds_the_orders_of_rest_level_3(
    exchange: SimulatedExchange, client: FeedClient
) -> None:
    await client.subscribe(["full"], ["BTC-USD"], signed_by=Credentials())
    exchange.advance(1)
    async with httpx.AsyncClient(base_url=exchange.rest_url) as rest:
        book = (await rest.get("/products/BTC-USD/book", params={"level": 3})).json()
    exchange.advance(2)
    await client.subscribe(["heartbeat"], ["ETH-USD"])
    events = [each for each in client.messages if each.get("product_id") == "BTC-USD"]
    numbers = [each["sequence"] for each in events]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert {each["type"] for each in events} >= {"received", "open", "done", "match"}

    orders = {order[2]: float(order[1]) for side in ("bids", "asks") for order in book[side]}
    for event in events:
        if event["sequence"] <= book["sequence"]:
            continue
        match event["type"]:
            case "open":
                orders[event["order_id"]] = float(event["remaining_size"])
            case "done":
                orders.pop(event["order_id"], None)
            case "match":
                orders[event["maker_order_id"]] -= float(event["size"])
            case "change":
                orders[event["order_id"]] = float(event["new_size"])
    truth = exchange.model.state("BTC-USD", orders=True).orders or []
    assert orders == pytest.approx({order_id: float(size) for _, _, size, order_id in truth})


async def test_level3_rows_are_contiguous_behind_their_schema(
    exchange: SimulatedExchange, client: FeedClient
) -> None:
    await client.send(
        {
            "type": "subscribe",
            "channels": [{"name": "level3", "product_ids": ["BTC-USD"]}],
            **Credentials().signed_fields(str(int(time.time()))),
        }
    )
    ack, schema = await client.socket.recv(), msgspec.json.decode(await client.socket.recv())
    assert b"level3" in (ack.encode() if isinstance(ack, str) else ack)
    exchange.advance(1)
    first = msgspec.json.decode(await client.socket.recv())
    assert len(first) == len(schema["schema"][first[0]])
    second = msgspec.json.decode(await client.socket.recv())
    assert int(second[2]) == int(first[2]) + 1


async def test_status_needs_no_product_and_lists_the_tradable_ones(client: FeedClient) -> None:
    await client.send({"type": "subscribe", "channels": ["status"]})
    status = await client.until_type("status")
    assert [each["id"] for each in status["products"]] == list(PRODUCTS)


async def test_after_unsubscribing_nothing_more_comes(
    exchange: SimulatedExchange, client: FeedClient
) -> None:
    await client.subscribe(["matches", "heartbeat"], ["BTC-USD"])
    await client.send({"type": "unsubscribe", "channels": ["matches"]})
    ack = await client.until(lambda each: each["type"] == "subscriptions")
    assert [each["name"] for each in ack["channels"]] == ["heartbeat"]
    exchange.advance(3)
    await client.until(lambda each: len(client.of("heartbeat")) == 3)
    assert client.of("match") == []


async def test_subscribing_level2_anew_brings_a_new_snapshot(
    exchange: SimulatedExchange, client: FeedClient
) -> None:
    await client.subscribe(["level2_batch"], ["BTC-USD"])
    await client.until_type("snapshot")
    await client.send(
        {"type": "unsubscribe", "product_ids": ["BTC-USD"], "channels": ["level2_50"]}
    )
    exchange.advance(1)
    await client.subscribe(["level2_batch"], ["BTC-USD"])
    await client.until(lambda _: len(client.of("snapshot")) == 2)
    assert fold(client.of("snapshot")[-1:]) == true_book(exchange, "BTC-USD")


async def test_a_snapshot_of_more_than_a_megabyte_arrives_whole() -> None:
    async with (
        SimulatedExchange(products=("BTC-USD",), depth=22_000, paced=False) as exchange,
        FeedClient(exchange.ws_url) as client,
    ):
        await client.subscribe(["level2_batch"], ["BTC-USD"])
        await client.until_type("snapshot")
        assert len(client.frames[-1]) > 1_100_000
        assert fold(client.messages) == true_book(exchange, "BTC-USD")


async def test_a_paced_market_moves_by_itself() -> None:
    async with (
        SimulatedExchange(products=PRODUCTS, rate=200) as exchange,
        FeedClient(exchange.ws_url) as client,
    ):
        await client.subscribe(["heartbeat"], ["BTC-USD"])
        await client.until(lambda _: len(client.of("heartbeat")) == 2)


async def test_a_client_that_does_not_read_is_cut_while_others_go_on() -> None:
    async with (
        SimulatedExchange(
            products=PRODUCTS,
            rate=2000,
            depth=40,
            paced=False,
            start_us=START,
            limits=Limits(max_backlog=100_000),
        ) as exchange,
        connect(exchange.ws_url, max_queue=1, compression=None, ping_interval=None) as lazy,
        FeedClient(exchange.ws_url) as reader,
    ):
        await lazy.send(
            '{"type":"subscribe","channels":["matches","ticker"],"product_ids":["BTC-USD"]}'
        )
        await lazy.recv()
        await reader.subscribe(["heartbeat"], ["BTC-USD"])
        for second in range(1, 200):
            exchange.advance(1)
            await reader.until(lambda _, n=second: len(reader.of("heartbeat")) == n)  # type: ignore[misc]  # n is bound now
            if exchange.report()["clients"] == 1:
                break
        else:
            pytest.fail("the lazy client was never cut")
        with pytest.raises(ConnectionClosed):
            await read_to_the_end(lazy)


async def read_to_the_end(socket: ClientConnection) -> None:
    while True:
        await socket.recv()
