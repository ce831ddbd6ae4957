"""Commands, right and wrong: each wrong one gets its error and the connection lives on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from services.common.stream.memory.broker import MemoryBroker
from services.gateway.testing import Bench, bench, eventually


@pytest.fixture
async def gateway() -> AsyncIterator[Bench]:
    async with bench(MemoryBroker()) as running:
        await running.market().ticks(3)
        yield running


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("{", 1000),
        ("", 1000),
        ("[1]", 1000),
        ("null", 1000),
        ("[" * 30_000, 1000),
        ('{"a":' * 5000 + "1" + "}" * 5000, 1000),
        ("{}", 1001),
        ('{"type":1}', 1001),
        ('{"type":"buy"}', 1001),
        ('{"type":"subscribe"}', 1002),
        ('{"type":"subscribe","products":"BTC-USD"}', 1002),
        ('{"type":"subscribe","products":[1]}', 1002),
        ('{"type":"subscribe","products":["BTC-USD"],"from_seq":"1"}', 1002),
        ('{"type":"subscribe","products":["BTC-USD"],"from_seq":-1}', 1002),
        ('{"type":"subscribe","products":["BTC-USD"],"from_seq":1e400}', 1000),
        ('{"type":"subscribe","products":["BTC-USD"],"mode":"slow"}', 1002),
        ('{"type":"subscribe","products":["BTC-USD"],"max_rate":0}', 1002),
        ('{"type":"subscribe","products":["BTC-USD"],"cursor":"abc"}', 1002),
        ('{"type":"unsubscribe"}', 1002),
        ('{"type":"resync","product":"ETH-USD"}', 3003),
        ('{"type":"ping","id":"' + "x" * 70_000 + '"}', 1003),
    ],
)
async def test_a_bad_message_gets_its_error_and_the_connection_lives_on(
    gateway: Bench, text: str, code: int
) -> None:
    async with gateway.client() as client:
        await client.socket.send(text)
        message = await client.until(lambda m: m["type"] in ("error", "subscribed"))
        found = message if message["type"] == "error" else message["results"][0]["error"]
        assert found["code"] == code
        if code == 1002:
            assert found["field"]
            assert found["message"].startswith(found["field"])
        await client.send(type="ping", id=7, ts=1)
        pong = await client.of("pong")
        assert (pong["id"], pong["ts"]) == (7, 1)


async def test_a_binary_frame_is_refused_and_the_connection_lives_on(gateway: Bench) -> None:
    async with gateway.client() as client:
        await client.socket.send(b"\x00\x01")
        assert (await client.of("error"))["code"] == 1003
        await client.send(type="ping")
        await client.of("pong")


async def test_repeated_abuse_is_closed_with_1008(gateway: Bench) -> None:
    async with gateway.client() as client:
        for _ in range(30):
            await client.socket.send(b"\x00")
        assert await client.closed() == 1008


async def test_a_frame_too_large_to_read_is_told_before_the_close(gateway: Bench) -> None:
    async with gateway.client() as client:
        await client.receive()
        await client.socket.send("x" * 2_000_000)
        assert await client.closed() == 1009
    assert client.messages[-1]["code"] == 1003


async def test_one_bad_product_never_fails_the_others(gateway: Bench) -> None:
    async with gateway.client() as client:
        await client.send(
            type="subscribe",
            id="a",
            products=["BTC-USD", "NO-SUCH", "not a product"],
            channels=["ticker", "candles"],
        )
        subscribed = await client.of("subscribed")
        codes = {
            (r["channel"], r["product"]): r.get("error", {}).get("code")
            for r in subscribed["results"]
        }
        assert codes == {
            ("ticker", "BTC-USD"): None,
            ("ticker", "NO-SUCH"): 3000,
            ("ticker", "not a product"): 3000,
            ("candles", "BTC-USD"): 3001,
            ("candles", "NO-SUCH"): 3001,
            ("candles", "not a product"): 3001,
        }
        await client.of("snapshot")


async def test_a_product_that_appears_later_is_found(gateway: Bench) -> None:
    async with gateway.client() as client:
        await client.send(type="subscribe", product="LATE-USD")
        assert not (await client.of("subscribed"))["results"][0]["ok"]
        await gateway.market("LATE-USD").ticks(1)
        ok = False
        while not ok:
            await client.send(type="subscribe", product="LATE-USD")
            ok = (await client.of("subscribed"))["results"][0]["ok"]
            if not ok:
                await client.of("hb")


async def test_a_known_product_without_records_on_a_channel_starts_live(gateway: Bench) -> None:
    trades = gateway.market(channel="trades")
    async with gateway.client() as client:
        await client.send(type="subscribe", product="BTC-USD", channel="trades")
        result = (await client.of("subscribed"))["results"][0]
        assert (result["ok"], result["seq"], result["start"]) == (True, None, "live")
        await trades.ticks(3)
        await client.reach(trades)
    assert client.seen[str(trades.key)] == trades.chain


async def test_nothing_comes_after_unsubscribed(gateway: Bench) -> None:
    market = gateway.market("ETH-USD")
    await market.ticks(3)
    async with gateway.client() as client:
        await client.send(type="subscribe", product="ETH-USD")
        await client.of("snapshot")
        await market.ticks(2)
        await client.reach(market)
        await client.send(type="unsubscribe", id=3, products=["ETH-USD", "BTC-USD"])
        answer = await client.of("unsubscribed")
        assert [result["ok"] for result in answer["results"]] == [True, False]
        held = client.held[str(market.key)]
        await market.ticks(5)
        await client.send(type="ping")
        await client.of("pong")
        assert client.held[str(market.key)] == held


async def test_resync_brings_a_fresh_snapshot_of_that_stream_only(gateway: Bench) -> None:
    market = gateway.market("ETH-USD")
    await market.ticks(3)
    async with gateway.client() as client:
        await client.send(type="subscribe", products=["ETH-USD", "BTC-USD"])
        await client.of("snapshot")
        await client.of("snapshot")
        await market.ticks(3)
        await client.reach(market)
        await client.send(type="resync", product="ETH-USD", channel="ticker")
        snapshot = await client.of("snapshot")
        assert (snapshot["reason"], snapshot["snapshot"]["seq"]) == ("resync", market.seq)
        await market.ticks(3)
        await client.reach(market)
    assert client.breaks == []


async def test_commands_beyond_the_rate_are_told_when_to_come_back() -> None:
    async with (
        bench(MemoryBroker(), ws_max_msgs_per_sec=1, ws_burst=10) as gateway,
        gateway.client() as client,
    ):
        limit: dict[str, Any] = {}
        answered = 0
        while not limit:
            # Until one is refused: a busy machine may take longer than a burst is worth.
            await client.send(type="ping", id=answered)
            answer = await client.of("pong", "rate_limit")
            assert answer["id"] == answered
            if answer["type"] == "rate_limit":
                limit = answer
            else:
                answered += 1
        assert answered >= 10
        assert limit["scope"] == "commands"
        assert 0 < limit["retry_after_ms"] <= 1002
        await asyncio.sleep(limit["retry_after_ms"] / 1000)
        await client.send(type="ping", id="later")
        await client.until(lambda m: m["type"] == "pong" and m.get("id") == "later")


async def test_heartbeats_name_the_heads(gateway: Bench) -> None:
    market = gateway.market("ETH-USD")
    await market.ticks(3)
    async with gateway.client() as client:
        await client.send(type="subscribe", product="ETH-USD")
        await client.of("snapshot")
        beat = await client.until(lambda m: m["type"] == "hb" and m["heads"])
        assert beat["heads"] == {str(market.key): market.seq}


async def test_a_subscription_limit_is_told_per_stream() -> None:
    async with bench(MemoryBroker(), ws_max_subscriptions=1) as gateway:
        await gateway.market("AAA-USD").ticks(1)
        await gateway.market("BBB-USD").ticks(1)
        async with gateway.client() as client:
            await client.send(type="subscribe", products=["AAA-USD", "BBB-USD"])
            results = (await client.of("subscribed"))["results"]
    assert results[0]["ok"]
    assert results[1]["error"]["code"] == 3005


async def test_the_snapshot_can_be_declined(gateway: Bench) -> None:
    market = gateway.market("ETH-USD")
    await market.ticks(3)
    async with gateway.client() as client:
        await client.send(type="subscribe", product="ETH-USD", snapshot=False)
        assert (await client.of("subscribed"))["results"][0]["start"] == "live"
        await market.ticks(3)
        await client.reach(market)
    assert "snapshot" not in client.types()


async def test_batch_clients_get_arrays_in_order(gateway: Bench) -> None:
    market = gateway.market("ETH-USD")
    await market.ticks(100)
    async with gateway.client() as client:
        await client.send(type="subscribe", product="ETH-USD", from_seq=0, batch=True)
        await client.reach(market)
    assert client.seen[str(market.key)] == market.chain
    assert client.breaks == []


KEYS: dict[str, Any] = {"auth_api_keys": "right,sha256:" + "0" * 64}


@pytest.mark.parametrize(
    "options",
    [
        {"additional_headers": {"X-API-Key": "right"}},
        {"additional_headers": {"Authorization": "Bearer right"}},
        {"path": "/ws?api_key=right"},
    ],
)
async def test_a_key_is_taken_from_header_or_query(options: dict[str, Any]) -> None:
    async with bench(MemoryBroker(), **KEYS) as gateway:
        await gateway.market().ticks(1)
        async with gateway.client(**options) as client:
            await client.send(type="subscribe", product="BTC-USD")
            await client.of("snapshot")


async def test_without_a_key_only_auth_is_taken() -> None:
    async with bench(MemoryBroker(), **KEYS) as gateway:
        await gateway.market().ticks(1)
        async with gateway.client() as client:
            assert (await client.receive())["auth"] == "required"
            await client.send(type="subscribe", product="BTC-USD")
            assert (await client.of("error"))["code"] == 2000
            await client.send(type="auth", id=1, api_key="wrong")
            assert (await client.of("error"))["code"] == 2001
            await client.send(type="auth", id=2, api_key="right")
            assert (await client.of("auth"))["ok"]
            await client.send(type="subscribe", product="BTC-USD")
            await client.of("snapshot")


async def test_a_client_that_never_says_who_it_is_is_closed() -> None:
    async with (
        bench(MemoryBroker(), ws_auth_timeout_s=0.2, ws_heartbeat_ms=100, **KEYS) as gateway,
        gateway.client() as client,
    ):
        assert await client.closed() == 1008


async def test_origins_that_are_not_allowed_are_refused() -> None:
    async with bench(MemoryBroker(), allowed_origins="https://good.example") as gateway:
        with pytest.raises(InvalidStatus) as refused:
            async with gateway.client(origin="https://bad.example"):
                pass
        assert refused.value.response.status_code == 403
        assert b'"code": 2004' in (refused.value.response.body or b"")
        async with gateway.client(origin="https://good.example") as client:
            await client.of("welcome")


@pytest.mark.parametrize("path", ["/", "/nowhere", "/v1/products", "/ws/more"])
async def test_a_handshake_where_no_websocket_is_is_not_found(path: str) -> None:
    async with bench(MemoryBroker()) as gateway:
        with pytest.raises(InvalidStatus) as refused:
            async with connect(f"ws://127.0.0.1:{gateway.port}{path}"):
                pass
        assert refused.value.response.status_code == 404
        assert refused.value.response.body == b"the WebSocket is at /ws"


async def test_the_connection_quota_is_free_again_at_once() -> None:
    async with bench(MemoryBroker(), ws_max_connections=1) as gateway:
        async with gateway.client() as client:
            await client.of("welcome")
            with pytest.raises(InvalidStatus) as refused:
                async with gateway.client():
                    pass
            assert refused.value.response.status_code == 503
            assert b'"code": 2005' in (refused.value.response.body or b"")
        await eventually(lambda: not gateway.gateway.sessions)
        async with gateway.client() as client:
            await client.of("welcome")


async def test_a_connections_worth_of_products_in_one_command_are_answered_each(
    gateway: Bench,
) -> None:
    products = [f"P{number}-USD" for number in range(999)]
    async with gateway.client() as client:
        await client.send(type="subscribe", products=[*products, "BTC-USD"])
        results: list[dict[str, Any]] = []
        last = False
        while not last:
            answer = await client.of("subscribed")
            results, last = results + answer["results"], answer["last"]
        assert [result["product"] for result in results] == [*products, "BTC-USD"]
        assert [result["product"] for result in results if result["ok"]] == ["BTC-USD"]
        await client.of("snapshot")
