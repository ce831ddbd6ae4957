"""A gateway at a leaf node: how many gateways share one copy of the ticks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.common.stream.nats.broker import NatsBroker
from services.gateway.testing import Bench, bench
from tools.embedded import NatsLeaf, NatsServer, free_port


@asynccontextmanager
async def place() -> AsyncIterator[tuple[NatsLeaf, Bench]]:
    """The gateway is at the leaf, the market is published at the hub."""
    async with (
        NatsServer(leaf_port=free_port()) as hub,
        NatsLeaf(hub) as leaf,
        bench(
            NatsBroker((leaf.url,)),
            NatsBroker((hub.url,)),
            window_bytes=30_000,
        ) as gateway,
    ):
        yield leaf, gateway


async def test_snapshot_backfill_and_live_are_one_chain_through_a_leaf_node() -> None:
    async with place() as (_leaf, gateway):
        market = gateway.market()
        await market.ticks(1500)
        async with gateway.client() as live, gateway.client() as late:
            await live.send(type="subscribe", products=["BTC-USD"])
            await live.of("snapshot")
            await late.send(type="subscribe", products=["BTC-USD"], from_seq=market.chain[4])
            await market.ticks(300)
            await live.reach(market)
            await late.reach(market)
        assert live.breaks == late.breaks == []
        assert late.seen[str(market.key)] == market.chain[5:]


async def test_what_was_published_while_the_leaf_was_cut_off_is_read_from_the_log() -> None:
    async with place() as (leaf, gateway):
        market = gateway.market()
        await market.ticks(50)
        async with gateway.client() as client:
            await client.send(type="subscribe", products=["BTC-USD"])
            await client.of("snapshot")
            await leaf.kill()
            await market.ticks(100)
            await leaf.start()
            await market.ticks(50)
            await client.reach(market)
        assert client.breaks == []
        assert client.seen[str(market.key)] == market.chain[50:]
