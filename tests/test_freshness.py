"""Part of the platform stands still: who subscribed hears from the gateway that the data is old.

And hears nothing of it in a market in which nothing happens.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from services.gateway.protocol import BROKER_UNAVAILABLE
from services.gateway.testing import Client, Message
from tools.stack import Stack, StackOptions
from tools.stack.options import BrokerKind

pytestmark = pytest.mark.e2e

# Shorter than the defaults, so that each standstill is short.
STALE_AFTER_MS = 4000
ENVIRONMENT = {
    "ingestor": {"PULSE_PERIOD_MS": "500"},
    "gateway": {"STALE_AFTER_MS": str(STALE_AFTER_MS), "WS_HEARTBEAT_MS": "1000"},
}
CHANNELS = ["ticker", "trades", "book"]
HEAR_S = 60.0


@contextlib.contextmanager
def standing_still(pid: int | None) -> Iterator[None]:
    """The process neither runs nor ends while the block does."""
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def by_gateway(message: Message, state: str) -> bool:
    evidence = message.get("evidence")
    return (
        message["type"] == "status"
        and message["state"] == state
        and isinstance(evidence, dict)
        and evidence["by"] == "gateway"
    )


def last_words(client: Client) -> dict[str, str]:
    """The last that the client was told of each stream's state, whoever said it."""
    said: dict[str, str] = {}
    for message in client.messages:
        if message["type"] == "status":
            said[f"{message['venue']}:{message['channel']}:{message['product']}"] = message["state"]
    return said


async def heard_everywhere(client: Client, state: str, streams: set[str]) -> None:
    """Return once `state` is the last word of each stream.

    Who says it, and how often, is the machine's business. On a busy one a stream may be late, and
    so stale, and live again, before anything stands still and while that begins. An ingestor that
    goes on may first see that its feed was silent: then the log says `stale`, and `live` again,
    and the gateway has nothing to take back.
    """
    try:
        async with asyncio.timeout(HEAR_S):
            while (said := last_words(client)) != dict.fromkeys(streams, state):
                await client.until(lambda message: message["type"] == "status")
    except TimeoutError as late:
        raise AssertionError(f"not {state} everywhere: {said}") from late


async def goes_on(client: Client, streams: set[str]) -> None:
    """Return once each stream has ticks of now on, and is live.

    An ingestor that stood still may be told so by the gateway's first word, and connect anew right
    after it. What stood still next would find its streams `down`, which the gateway leaves so.
    """
    before = dict(client.held)
    async with asyncio.timeout(HEAR_S):
        while any(client.held[stream] <= before[stream] for stream in streams):
            await client.receive()
    await heard_everywhere(client, "live", streams)


async def told_everywhere(stack: Stack, state: str) -> None:
    """Return once `/v1/status` and a snapshot say `state` of every stream that is followed."""
    async with (
        httpx.AsyncClient(base_url=stack.url("gateway"), trust_env=False, timeout=HEAR_S) as http,
        asyncio.timeout(HEAR_S),
    ):
        while True:
            report = (await http.get("/v1/status")).json()
            snapshot = (await http.get("/v1/snapshot/BTC-USD?channel=trades")).json()
            states = {one["state"] for one in report["streams"]} | {snapshot["status"]["state"]}
            if states == {state}:
                return
            await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def subscribed(stack: Stack) -> AsyncIterator[tuple[Client, set[str]]]:
    async with Client(stack.gateway_url) as client:
        streams: set[str] = set()
        async with asyncio.timeout(HEAR_S):
            for channel, product in itertools.product(CHANNELS, stack.products):
                streams.add(await accepted(client, channel, product))
        yield client, streams


async def accepted(client: Client, channel: str, product: str) -> str:
    """The stream, once the gateway has taken a subscription to it.

    A busy machine may take longer to find one that nobody followed yet than a subscriber is let
    wait: told "after" a while (6001), it asks again.
    """
    while True:
        await client.send(type="subscribe", product=product, channel=channel)
        (result,) = (await client.of("subscribed"))["results"]
        if result["ok"]:
            return str(result["stream"])
        assert result["error"]["code"] == BROKER_UNAVAILABLE.code, result


@pytest.mark.parametrize("broker", ["nats", "redis"])
async def test_whatever_stands_still_is_told_and_that_it_goes_on(
    broker: BrokerKind, tmp_path: Path
) -> None:
    options = StackOptions(
        products=("BTC-USD", "ETH-USD"),
        broker_kind=broker,
        run_dir=tmp_path,
        environment=ENVIRONMENT,
    )
    async with Stack(options) as stack:
        await eventually_all_three(stack)
        async with subscribed(stack) as (client, streams):
            for name in ("normalizer", "ingestor", stack.broker.name):
                with standing_still(stack.components[name].pid):
                    await heard_everywhere(client, "stale", streams)
                    if name != stack.broker.name:
                        await told_everywhere(stack, "stale")
                    # A subscriber who comes now hears it at once.
                    async with subscribed(stack) as (late, _):
                        await heard_everywhere(late, "stale", streams)
                await goes_on(client, streams)
            assert client.breaks == []
            words = [message for message in client.messages if by_gateway(message, "stale")]
            assert {f"coinbase:{each['channel']}:{each['product']}" for each in words} == streams
            assert all(each["evidence"]["age_ms"] >= STALE_AFTER_MS for each in words)


async def eventually_all_three(stack: Stack) -> None:
    """Return once every product has a record on every channel."""
    async with (
        httpx.AsyncClient(base_url=stack.url("gateway"), trust_env=False) as http,
        asyncio.timeout(HEAR_S),
    ):
        while True:
            listed = (await http.get("/v1/products")).json()["products"]
            if len(listed) == len(stack.products) and all(
                sorted(one["channels"]) == sorted(CHANNELS) for one in listed
            ):
                return
            await asyncio.sleep(0.1)


def quiet_capture(seconds: int) -> str:
    """A trade and a book, and from then on heartbeats only."""
    begun = datetime(2026, 3, 1, 12, tzinfo=UTC)

    def at(second: float) -> str:
        return (begun + timedelta(seconds=second)).isoformat().replace("+00:00", "000Z")

    product = {"product_id": "BTC-USD"}
    trade = {"price": "100.5", "size": "0.1", "side": "buy", "trade_id": 7, **product}
    lines = [
        {"type": "snapshot", **product, "bids": [["100", "1"]], "asks": [["101", "1"]]},
        {
            "type": "last_match",
            "maker_order_id": "m",
            "taker_order_id": "t",
            "sequence": 10,
            "time": at(0.1),
            **trade,
        },
        {
            "type": "ticker",
            "sequence": 10,
            "price": "100.5",
            "open_24h": "1",
            "volume_24h": "1",
            "low_24h": "1",
            "high_24h": "1",
            "volume_30d": "1",
            "best_bid": "100",
            "best_bid_size": "1",
            "best_ask": "101",
            "best_ask_size": "1",
            "side": "sell",
            "time": at(0.1),
            "trade_id": 7,
            "last_size": "0.1",
            **product,
        },
    ]
    lines += [
        {
            "type": "heartbeat",
            "last_trade_id": 7,
            "sequence": 10 + second,
            "time": at(second + 0.2),
            **product,
        }
        for second in range(seconds)
    ]
    return "".join(json.dumps(line) + "\n" for line in lines)


async def test_a_quiet_market_is_not_called_stale(tmp_path: Path) -> None:
    capture = tmp_path / "quiet.ndjson"
    capture.write_text(quiet_capture(90))
    options = StackOptions(
        upstream="replay", capture=capture, run_dir=tmp_path / "run", environment=ENVIRONMENT
    )
    async with Stack(options) as stack, Client(stack.gateway_url) as client:
        await client.send(type="subscribe", product="BTC-USD", channel="ticker")
        await client.of("snapshot")
        # As many heartbeats of the gateway as take three times what would make it stale.
        for _ in range(3 * STALE_AFTER_MS // 1000):
            await client.of("hb")
        assert not [message for message in client.messages if by_gateway(message, "stale")]
        told = [message for message in client.messages if message["type"] == "status"]
        assert told[-1]["state"] in ("live", "quiet")
