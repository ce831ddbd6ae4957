"""The gateway on a real nats-server."""

from __future__ import annotations

import asyncio

from services.common.stream.nats import NatsBroker
from services.gateway.testing import bench
from tools.embedded import NatsServer


def broker(server: NatsServer) -> NatsBroker:
    return NatsBroker((server.url,), prefix="MARKET")


async def test_snapshot_backfill_and_live_are_one_chain(nats_server: NatsServer) -> None:
    async with bench(broker(nats_server), broker(nats_server), window_bytes=30_000) as gateway:
        market = gateway.market()
        await market.publish(market.status())
        await market.ticks(1500)
        async with gateway.client() as live, gateway.client() as late:
            async with asyncio.TaskGroup() as group:
                group.create_task(market.ticks(300))
                await live.send(type="subscribe", products=["BTC-USD"])
                await live.of("snapshot")
                await late.send(type="subscribe", products=["BTC-USD"], from_seq=market.chain[4])
            await live.reach(market)
            await late.reach(market)
        assert live.breaks == late.breaks == []
        assert late.seen[str(market.key)] == market.chain[5:]


async def test_a_killed_server_that_comes_back_breaks_no_chain(nats_server: NatsServer) -> None:
    async with bench(broker(nats_server), broker(nats_server)) as gateway:
        market = gateway.market()
        await market.ticks(50)
        async with gateway.client() as client:
            await client.send(type="subscribe", products=["BTC-USD"])
            await client.of("snapshot")
            await market.ticks(50)
            await client.reach(market)
            await nats_server.kill()
            async with asyncio.TaskGroup() as group:
                group.create_task(market.ticks(100))
                await nats_server.start()
            await market.ticks(50)
            await client.reach(market)
        assert client.breaks == []
        assert client.seen[str(market.key)] == market.chain[50:]
