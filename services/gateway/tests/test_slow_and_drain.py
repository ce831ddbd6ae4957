"""Slow clients, conflation, shutdown, a broker that goes away."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from services.common.sharding import shard_of
from services.common.stream.memory.broker import MemoryBroker, MemoryServer
from services.gateway.testing import WAIT_S, Bench, Client, bench, eventually

SLOW: dict[str, Any] = {"max_queue": 1, "close_timeout": 0.5}


async def stall(gateway: Bench, client: Client, market: Any) -> None:
    """Publish until the gateway has taken this client, which does not read, off the live push."""
    (session,) = gateway.gateway.sessions
    subscription, _feed = session.subscriptions.by_stream[market.key]
    for _ in range(200):
        if not subscription.live:
            return
        await market.ticks(100)
    raise AssertionError("the client never became slow")


async def test_a_slow_client_is_told_and_caught_up_without_loss() -> None:
    async with bench(MemoryBroker(), ws_queue_bytes=32_768, window_bytes=100_000) as gateway:
        market = gateway.market(padding=2000)
        await market.ticks(3)
        async with gateway.client(**SLOW) as client:
            await client.send(type="subscribe", products=["BTC-USD"])
            await client.of("snapshot")
            first = market.chain[-1]
            await stall(gateway, client, market)
            slow = await client.of("mode")
            assert (slow["to"], slow["reason"]) == ("catch_up", "slow")
            assert slow["lag"] > 0
            await client.reach(market)
            await client.until(lambda m: m["type"] == "mode" and m["reason"] == "recovered")
            await market.ticks(5)
            await client.reach(market)
        chain = market.chain
        assert client.seen[str(market.key)] == chain[chain.index(first) + 1 :]
        assert client.breaks == []


async def test_a_slow_client_does_not_delay_another_one() -> None:
    async with bench(MemoryBroker(), ws_queue_bytes=32_768) as gateway:
        market = gateway.market(padding=2000)
        await market.ticks(3)
        async with gateway.client(**SLOW) as slow:
            await slow.send(type="subscribe", products=["BTC-USD"])
            await slow.of("snapshot")
            await stall(gateway, slow, market)
            async with gateway.client() as quick:
                await quick.send(type="subscribe", products=["BTC-USD"])
                await quick.of("snapshot")
                for _ in range(20):
                    await market.ticks(1)
                    await quick.reach(market)
                assert quick.breaks == []
                assert len(quick.seen[str(market.key)]) == 20
            (session, *_) = gateway.gateway.sessions
            assert session.queued < 1_000_000


async def test_a_client_that_takes_nothing_is_closed_in_the_end() -> None:
    async with bench(
        MemoryBroker(), ws_queue_bytes=32_768, ws_slow_close_s=0.5, ws_heartbeat_ms=100
    ) as gateway:
        market = gateway.market(padding=2000)
        await market.ticks(3)
        async with gateway.client(**SLOW) as client:
            await client.send(type="subscribe", products=["BTC-USD"])
            await client.of("snapshot")
            async with asyncio.timeout(WAIT_S):
                while gateway.gateway.sessions:
                    await market.ticks(20)


async def test_latest_mode_merges_ticks_in_a_chain_that_verifies() -> None:
    async with bench(MemoryBroker()) as gateway:
        market = gateway.market()
        await market.ticks(3)
        async with gateway.client() as client:
            clock = asyncio.get_running_loop().time
            began = clock()
            await client.send(type="subscribe", products=["BTC-USD"], mode="latest", max_rate=10)
            result = (await client.of("subscribed"))["results"][0]
            assert (result["mode"], result["max_rate"]) == ("latest", 10)
            await client.of("snapshot")
            for _ in range(100):
                await market.ticks(2)
                await asyncio.sleep(0)
            await client.reach(market)
            merged = [m["merged"] for m in client.messages if m["type"] == "incr"]
            took_s = clock() - began
        assert client.breaks == []
        assert sum(merged) == 200
        # The first at once, and then ten a second, however long this took.
        assert len(merged) <= 1 + 10 * took_s


async def test_the_rate_of_latest_mode_changes_without_a_new_snapshot() -> None:
    async with bench(MemoryBroker()) as gateway:
        market = gateway.market()
        await market.ticks(3)
        async with gateway.client() as client:
            await client.send(type="subscribe", products=["BTC-USD"])
            await client.of("snapshot")
            await client.send(type="subscribe", products=["BTC-USD"], mode="latest", max_rate=5)
            mode = await client.of("mode")
            assert (mode["from"], mode["to"], mode["reason"]) == ("full", "latest", "request")
            await market.ticks(20)
            await client.reach(market)
            await client.send(type="subscribe", products=["BTC-USD"], mode="full")
            mode = await client.of("mode")
            assert mode["to"] == "full"
            await market.ticks(20)
            await client.reach(market)
        assert client.breaks == []
        assert client.types().count("snapshot") == 1


async def test_a_product_rate_steps_a_client_down_and_says_so() -> None:
    async with bench(MemoryBroker(), product_max_msgs_per_sec=20) as gateway:
        market = gateway.market()
        await market.ticks(3)
        async with gateway.client() as client:
            await client.send(type="subscribe", products=["BTC-USD"])
            await client.of("snapshot")
            async with asyncio.TaskGroup() as group:
                limited = group.create_task(client.of("rate_limit"))
                while not limited.done():
                    await market.ticks(50)
                    await asyncio.sleep(0)
            limit = limited.result()
            assert (limit["scope"], limit["product"]) == ("product", "BTC-USD")
            await client.reach(market)
            modes = [m for m in client.messages if m["type"] == "mode"]
            assert modes[0]["reason"] == "quota"
            # As soon as the stream is calm again, every record comes again.
            recovered = False
            while not recovered:
                await market.ticks(1)
                await client.reach(market)
                found = [m["reason"] for m in client.messages if m["type"] == "mode"]
                recovered = "recovered" in found
        assert client.breaks == []


async def test_a_reset_comes_with_its_state_and_the_chain_goes_on() -> None:
    async with bench(MemoryBroker()) as gateway:
        market = gateway.market(channel="book")
        await market.publish(market.reset({"bids": [["10", "1"]], "asks": [["11", "2"]]}))
        await market.ticks(5)
        async with gateway.client() as client:
            await client.send(type="subscribe", product="BTC-USD", channel="book")
            snapshot = await client.of("snapshot")
            assert snapshot["last"] is True
            bids = [[str(n), "1"] for n in range(5000, 0, -1)]
            await market.publish(market.reset({"bids": bids, "asks": [["6000", "2"]]}))
            await market.ticks(5)
            await client.reach(market)
        assert client.breaks == []
        reset = client.messages[client.types().index("reset") + 0]
        parts = [m for m in client.messages if m["type"] == "snapshot" and m["reason"] == "reset"]
        assert [p["part"] for p in parts] == [1, 2, 3, 4, 5]
        assert [p["last"] for p in parts] == [False] * 4 + [True]
        assert [row for p in parts for row in p["snapshot"]["state"]["bids"]] == bids
        assert "state" not in reset


async def test_a_book_can_be_limited_in_depth() -> None:
    async with bench(MemoryBroker()) as gateway:
        market = gateway.market(channel="book")
        bids = [[str(n), "1"] for n in range(100, 0, -1)]
        await market.publish(market.reset({"bids": bids, "asks": []}))
        async with gateway.client() as client:
            await client.send(type="subscribe", product="BTC-USD", channel="book", depth=10)
            snapshot = await client.of("snapshot")
        assert snapshot["snapshot"]["state"]["bids"] == bids[:10]


async def test_drain_tells_where_to_go_on_and_closes_with_1012() -> None:
    broker_server = MemoryServer()
    async with bench(MemoryBroker(broker_server)) as old, bench(MemoryBroker(broker_server)) as new:
        market = old.market()
        await market.ticks(5)
        async with old.client() as client:
            await client.send(type="subscribe", products=["BTC-USD"])
            await client.of("snapshot")
            await market.ticks(5)
            await client.reach(market)
            async with asyncio.TaskGroup() as group:
                group.create_task(old.gateway.drain())
                drain = await client.of("drain")
                assert not old.gateway.health.ready
                with pytest.raises(InvalidStatus) as refused:
                    async with old.client():
                        pass
                assert refused.value.response.status_code == 503
                assert await client.closed() == 1012
            resume = drain["resume"][str(market.key)]
            assert resume["seq"] == client.held[str(market.key)]
        await market.ticks(5)
        async with new.client() as again:
            await again.send(type="subscribe", products=["BTC-USD"], cursor=resume["cursor"])
            await again.reach(market)
        assert client.seen[str(market.key)] + again.seen[str(market.key)] == market.chain[5:]


async def test_an_outage_of_the_log_is_survived_and_shown() -> None:
    server = MemoryServer()
    async with bench(MemoryBroker(server)) as gateway:
        market = gateway.market()
        await market.ticks(5)
        async with gateway.client() as client:
            await client.send(type="subscribe", products=["BTC-USD"])
            await client.of("snapshot")
            server.stop()
            # Of another shard, so that the answer is not from a moment ago.
            new = next(f"N{n}-USD" for n in range(99) if shard_of(f"N{n}-USD", 2) != market.shard)
            await client.send(type="subscribe", products=[new])
            result = (await client.of("subscribed"))["results"][0]
            assert result["error"]["code"] == 6001
            await eventually(lambda: not gateway.gateway.health.ready)
            server.start()
            await market.ticks(5)
            await client.reach(market)
            await eventually(lambda: gateway.gateway.health.ready)
        assert client.breaks == []


async def test_a_log_that_was_lost_gives_everyone_the_state_anew() -> None:
    server = MemoryServer()
    async with bench(MemoryBroker(server)) as gateway:
        market = gateway.market()
        await market.ticks(5)
        async with gateway.client() as client:
            await client.send(type="subscribe", products=["BTC-USD"])
            await client.of("snapshot")
            await market.ticks(5)
            await client.reach(market)
            server.wipe()
            anew = gateway.market(epoch=market.epoch + 1)
            await anew.ticks(5)
            snapshot = await client.of("snapshot")
            assert snapshot["reason"] == "catch_up"
            assert snapshot["snapshot"]["epoch"] == anew.epoch
            await anew.ticks(5)
            await client.reach(anew)
        assert client.breaks == []
