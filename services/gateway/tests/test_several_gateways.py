"""Gateways keep nothing of their own: each continues what another one began."""

from __future__ import annotations

import asyncio

from services.common.stream.broker import LiveSubscription
from services.common.stream.memory import MemoryBroker, MemoryServer
from services.common.subjects import tick_log
from services.gateway.testing import Bench, Market, bench, eventually


class CountingBroker(MemoryBroker):
    """Remembers which logs were followed live."""

    def __init__(self, server: MemoryServer | None = None) -> None:
        super().__init__(server)
        self.followed: list[str] = []

    async def live(self, log: str) -> LiveSubscription:
        self.followed.append(log)
        return await super().live(log)


async def raw_ticks(gateway: Bench, market: Market, from_seq: int) -> list[str]:
    """The `incr` frames up to the head, byte for byte."""
    async with gateway.client() as client:
        await client.send(type="subscribe", product=market.key.product, from_seq=from_seq)
        frames: list[str] = []
        while True:
            frame = await client.socket.recv()
            assert isinstance(frame, str)
            if frame.startswith('{"type":"incr"'):
                frames.append(frame)
            elif '"state":"end"' in frame:
                return frames


async def test_one_client_after_another_gateway_gets_the_same_chain() -> None:
    server = MemoryServer()
    async with (
        bench(MemoryBroker(server), window_bytes=3000) as first,
        bench(MemoryBroker(server)) as second,
    ):
        market = first.market()
        await market.ticks(300)
        whole = await raw_ticks(first, market, 0)
        assert whole == await raw_ticks(second, market, 0)
        assert len(whole) == 300
        seen: list[int] = []
        gateways = [first, second] * 4
        held = market.chain[0]
        async with asyncio.TaskGroup() as group:
            trading = group.create_task(market.ticks(400))
            for gateway in gateways:
                async with gateway.client(close_timeout=0.1) as client:
                    await client.send(type="subscribe", product="BTC-USD", from_seq=held)
                    for _ in range(60):
                        await client.receive()
                    assert client.breaks == []
                    seen += client.seen.get(str(market.key), [])
                    held = seen[-1] if seen else held
            await trading
        assert seen == market.chain[1 : len(seen) + 1]


async def test_only_shards_that_somebody_wants_are_followed() -> None:
    broker = CountingBroker()
    async with bench(broker, stream_linger_s=0.05, shard_count=8) as gateway:
        markets = [gateway.market(product) for product in ("BTC-USD", "ETH-USD", "SOL-USD")]
        for market in markets:
            await market.ticks(3)
        assert broker.followed == []
        wanted = markets[0]
        async with gateway.client() as client:
            for channel in ("ticker", "trades", "book"):
                await client.send(type="subscribe", product="BTC-USD", channel=channel)
                await client.of("subscribed")
            assert broker.followed == [tick_log(wanted.shard)]
            await wanted.ticks(2)
            await client.reach(wanted)
        await eventually(lambda: not gateway.gateway.core.tails.feeds)
        async with gateway.client() as client:
            await client.send(type="subscribe", product="ETH-USD")
            await client.of("snapshot")
        assert broker.followed == [tick_log(market.shard) for market in markets[:2]]
