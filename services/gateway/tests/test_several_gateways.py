"""Gateways keep nothing of their own: each continues what another one began."""

from __future__ import annotations

import asyncio

import pytest

from services.common.stream import LiveBatch, LiveSubscription, Message
from services.common.stream.memory.broker import MemoryBroker, MemoryServer
from services.common.subjects import tick_log
from services.gateway import backfill
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
        await eventually(lambda: not gateway.gateway.parts.streams.feeds)
        async with gateway.client() as client:
            await client.send(type="subscribe", product="ETH-USD")
            await client.of("snapshot")
        assert broker.followed == [tick_log(market.shard) for market in markets[:2]]


class LaggingBroker(MemoryBroker):
    """Hands out nothing live while it lags, which it does until the log's end is asked for."""

    def __init__(self, server: MemoryServer) -> None:
        super().__init__(server)
        self.keeps_up = asyncio.Event()
        self.keeps_up.set()

    async def live(self, log: str) -> LiveSubscription:
        reader = await super().live(log)
        next_batch = reader.next_batch

        async def lags() -> LiveBatch:
            batch = await next_batch()
            await self.keeps_up.wait()
            return batch

        reader.next_batch = lags  # type: ignore[method-assign]  # the fault
        return reader

    async def last(self, subject: str) -> Message | None:
        self.keeps_up.set()
        return await super().last(subject)


async def test_a_gateway_that_lags_asks_the_log_before_it_refuses_what_it_has_not_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Breaks when clients of a gateway that ended come to a busy one, and are given the state anew.
    monkeypatch.setattr(backfill, "_BEHIND_S", 0.01)
    server = MemoryServer()
    lagging = LaggingBroker(server)
    async with bench(MemoryBroker(server)) as ended, bench(lagging) as busy:
        market = ended.market()
        await market.ticks(5)
        async with ended.client() as client, busy.client() as other, busy.client() as moved:
            for one in (client, other):
                await one.send(type="subscribe", product="BTC-USD")
                await one.reach(market)
            lagging.keeps_up.clear()
            await market.ticks(5)
            await client.reach(market)
            held = client.held[str(market.key)]
            await moved.send(
                type="subscribe", product="BTC-USD", from_seq=held, on_unrecoverable="error"
            )
            (result,) = (await moved.of("subscribed"))["results"]
            assert (result["ok"], result["start"]) == (True, "backfill")
            await market.ticks(3)
            await moved.reach(market)
            await other.reach(market)
            assert moved.seen[str(market.key)] == market.chain[-3:]
            # What the log does not hold either is of the future still.
            beyond = (market.seq or 0) + 1
            await moved.send(
                type="subscribe", product="BTC-USD", from_seq=beyond, on_unrecoverable="error"
            )
            assert (await moved.of("error"))["code"] == 4002


async def test_two_gateways_in_one_process_count_their_own_only() -> None:
    async with bench(MemoryBroker()) as one, bench(MemoryBroker()) as other:
        market = one.market()
        await market.ticks(1)
        async with one.client() as client:
            await client.send(type="subscribe", products=["BTC-USD"])
            await client.reach(market)
            counted = [
                gateway.gateway.metrics.registry.get_sample_value("md_ws_connections")
                for gateway in (one, other)
            ]
        assert counted == [1, 0]
