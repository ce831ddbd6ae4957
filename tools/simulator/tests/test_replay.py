"""Replays of the recorded feed, over real sockets, compared with the file itself."""

from __future__ import annotations

from pathlib import Path

import httpx
import msgspec
import pytest

from services.common.domain.book import Book
from tools.simulator import SimulatedExchange
from tools.simulator.replay import BadCapture, ReplayMarket, load_capture
from tools.simulator.testing import FeedClient, Message

PRODUCTS = ["BTC-USD", "ETH-USD"]
CHANNELS = ["level2_batch", "matches", "heartbeat"]


@pytest.fixture
def recording(captures: Path) -> Path:
    return captures / "coinbase" / "live-btc-eth.ndjson"


def lines_of(recording: Path) -> list[str]:
    lines = recording.read_text().splitlines()
    return [line for line in lines if not line.startswith('{"type":"subscriptions"')]


def fold(messages: list[Message], product: str) -> Book:
    book = Book()
    for message in messages:
        if message.get("product_id") == product and message["type"] == "snapshot":
            book.replace(message["bids"], message["asks"])
        elif message.get("product_id") == product and message["type"] == "l2update":
            book.apply(message["changes"])
    return book


async def test_every_recorded_frame_is_sent_byte_for_byte_in_order(recording: Path) -> None:
    async with (
        SimulatedExchange(capture=recording, speed=0) as exchange,
        FeedClient(exchange.ws_url) as client,
    ):
        ack = await client.subscribe(CHANNELS, PRODUCTS)
        assert [each["name"] for each in ack["channels"]] == ["level2_50", "matches", "heartbeat"]
        recorded = lines_of(recording)
        while len(client.frames) < 1 + len(recorded):
            await client.receive()
    assert client.frames[1:] == recorded
    assert len(client.of("match")) == 435
    assert len(client.of("l2update")) == 1898
    assert len(client.of("heartbeat")) == 118


async def test_a_paced_replay_sends_the_same_frames(recording: Path) -> None:
    async with (
        SimulatedExchange(capture=recording, speed=100) as exchange,
        FeedClient(exchange.ws_url) as client,
    ):
        # In three requests, as some clients do: nothing is missed by the later ones.
        for channel in CHANNELS:
            await client.subscribe([channel], PRODUCTS)
        recorded = lines_of(recording)
        while len(client.frames) < 3 + len(recorded):
            await client.receive()
    assert client.frames[3:] == recorded


async def test_only_what_was_subscribed_is_sent(recording: Path) -> None:
    async with (
        SimulatedExchange(capture=recording, speed=0) as exchange,
        FeedClient(exchange.ws_url) as client,
    ):
        await client.subscribe(["matches"], ["ETH-USD"])
        wanted = [
            line
            for line in lines_of(recording)
            if '"product_id":"ETH-USD"' in line and "match" in line[:20]
        ]
        while len(client.frames) < 1 + len(wanted):
            await client.receive()
    assert client.frames[1:] == wanted


async def test_one_who_comes_late_gets_the_state_so_far_and_then_the_quiet_market(
    recording: Path,
) -> None:
    async with SimulatedExchange(capture=recording, speed=0) as exchange:
        async with FeedClient(exchange.ws_url) as first:
            await first.subscribe(CHANNELS, PRODUCTS)
            await first.until(lambda _: len(first.of("heartbeat")) == 118 + 2)
        async with FeedClient(exchange.ws_url) as late:
            await late.subscribe(CHANNELS, PRODUCTS)
            await late.until(lambda _: len(late.of("heartbeat")) >= 2)
        progress = exchange.report()["replay"]
    for product in PRODUCTS:
        assert fold(late.messages, product) == fold(first.messages, product)
        (last,) = late.of("last_match", product)
        assert last["trade_id"] == first.of("match", product)[-1]["trade_id"]
        beat = late.of("heartbeat", product)[0]
        assert beat["last_trade_id"] == last["trade_id"]
        assert beat["time"] > first.of("heartbeat", product)[0]["time"]
    assert progress["state"] == "finished"


async def test_rest_answers_from_the_state_folded_so_far(recording: Path) -> None:
    async with (
        SimulatedExchange(capture=recording, speed=0) as exchange,
        FeedClient(exchange.ws_url) as client,
        httpx.AsyncClient(base_url=exchange.rest_url) as rest,
    ):
        assert (await rest.get("/_control")).json()["replay"]["state"] == "waiting"
        await client.subscribe(CHANNELS, PRODUCTS)
        # The first heartbeats of the quiet market stand behind everything recorded.
        await client.until(lambda _: len(client.of("heartbeat")) == 120)
        book = (await rest.get("/products/BTC-USD/book?level=2")).json()
        trades = (await rest.get("/products/BTC-USD/trades?limit=1000")).json()
        ticker = (await rest.get("/products/BTC-USD/ticker")).json()
        products = (await rest.get("/products")).json()
        orders = await rest.get("/products/BTC-USD/book?level=3")
    held = Book()
    held.replace(book["bids"], book["asks"])
    assert held == fold(client.messages, "BTC-USD")
    assert len(trades) == 344 + 1
    assert ticker["trade_id"] == trades[0]["trade_id"]
    assert sorted(each["id"] for each in products) == PRODUCTS
    assert orders.status_code == 400


async def test_a_recording_without_tickers_gets_one_for_each_match(recording: Path) -> None:
    async with (
        SimulatedExchange(capture=recording, speed=0) as exchange,
        FeedClient(exchange.ws_url) as client,
    ):
        await client.subscribe(["ticker", "matches"], ["ETH-USD"])
        await client.until(lambda _: len(client.of("match")) == 91)
    matches = client.of("last_match") + client.of("match")
    tickers = client.of("ticker")
    sequences = [each["sequence"] for each in matches]
    assert [each["sequence"] for each in tickers] == sequences[: len(tickers)]
    assert "open_24h" not in tickers[0]


async def test_dropped_frames_are_missing_at_the_client_and_known_to_rest(
    recording: Path,
) -> None:
    async with SimulatedExchange(capture=recording, speed=0) as exchange:
        exchange.control(drop={"count": 5, "types": ["match"], "products": ["BTC-USD"]})
        async with FeedClient(exchange.ws_url) as client:
            await client.subscribe(CHANNELS, PRODUCTS)
            await client.until(lambda _: len(client.of("heartbeat")) == 120)
        assert len(client.of("match")) == 430
        lost = {each["trade_id"] for each in exchange.report()["lost"]}
        held = {each.trade_id for each in exchange.state("BTC-USD").tape.all()}
        assert held >= {i for i in lost if i is not None}


async def test_frames_are_paced_by_their_own_times(recording: Path) -> None:
    market = ReplayMarket(load_capture(recording))
    early = market.advance(market.first_us + 1_000_000)
    assert early
    assert not market.finished
    assert market.now_us <= market.first_us + 1_000_000
    market.advance(market.first_us + 120_000_000)
    assert market.finished


def test_a_line_that_is_no_message_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.ndjson"
    broken.write_text('{"type":"heartbeat","time":"2026-07-07T22:59:24.000000Z"}\nnonsense\n')
    with pytest.raises(BadCapture, match="line 2"):
        load_capture(broken)


def test_a_recording_of_the_full_channel_replays_too(captures: Path) -> None:
    market = ReplayMarket(load_capture(captures / "coinbase" / "full_2017-06-25.ndjson"))
    out = market.take(1000)
    sequences = [
        msgspec.json.decode(each.encoded())["sequence"]
        for each in out
        if "full" in each.channels and each.product == "BTC-USD"
    ]
    assert sequences == list(range(sequences[0], sequences[0] + len(sequences)))


async def test_a_recording_that_cannot_be_read_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        async with SimulatedExchange(capture=tmp_path / "absent.ndjson"):
            pass
