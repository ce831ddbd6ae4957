"""The log drops records between two questions about it: who subscribes meanwhile is told, or given
the state; and one stream that cannot begin takes nothing from other clients."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from services.common.errors import BrokerUnavailable, PositionLost
from services.common.stream import Page
from services.common.stream.memory.broker import MemoryBroker, MemoryServer
from services.gateway.backfill import Start
from services.gateway.protocol import TOO_OLD, Problem
from services.gateway.streams.catalog import Catalog
from services.gateway.streams.feed import FeedSources, StreamFeed
from services.gateway.testing import Bench, Market, bench, eventually, small_settings


class Clock:
    ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


async def _expired_place(gateway: Bench, market: Market, clock: Clock) -> int:
    """A seq whose place the gateway remembers, and whose records the log has dropped since."""
    pages = gateway.gateway.parts.backfill._pages
    pages._max_bytes = 1  # what was read is not kept
    async with gateway.client() as client:
        await client.send(type="subscribe", products=["BTC-USD"], from_seq=market.chain[10])
        await client.reach(market)
    clock.ahead = 200
    await market.ticks(600)
    return market.chain[10]


async def _expires_while_it_is_read(gateway: Bench, market: Market, clock: Clock) -> int:
    """The log's beginning, dropped after it was looked for and before it is read."""
    async with gateway.client() as client:
        await client.send(type="subscribe", products=["BTC-USD"])
        await client.reach(market)
    broker = gateway.gateway.broker
    seek = broker.seek

    async def seek_and_then_expire(subject: str, after: Any) -> str:
        cursor = await seek(subject, after)
        if not clock.ahead:
            clock.ahead = 200
            await market.ticks(600)
        return cursor

    broker.seek = seek_and_then_expire  # type: ignore[method-assign]  # retention goes on
    return 0


@pytest.mark.parametrize("lost", [_expired_place, _expires_while_it_is_read])
@pytest.mark.parametrize("then", ["snapshot", "error"])
async def test_what_expired_meanwhile_is_answered_as_what_expired_before(
    lost: Any, then: str
) -> None:
    clock = Clock()
    server = MemoryServer(clock=clock)
    async with bench(MemoryBroker(server), window_bytes=4096, js_retention_minutes=1) as gateway:
        market = gateway.market()
        await market.ticks(1200)
        from_seq = await lost(gateway, market, clock)
        async with gateway.client() as client:
            await client.send(
                type="subscribe", products=["BTC-USD"], from_seq=from_seq, on_unrecoverable=then
            )
            (result,) = (await client.of("subscribed"))["results"]
            if from_seq == 0:
                # From the beginning, as far as it is retained.
                await client.reach(market)
                await client.until(lambda m: m["type"] == "backfill" and m["state"] == "end")
            elif then == "snapshot":
                assert result["warning"]["code"] == 4001
                assert (await client.of("snapshot"))["reason"] == "catch_up"
                await client.reach(market)
            else:
                assert result["error"]["code"] == 4001
                assert (await client.of("error"))["code"] == 4001
        assert client.breaks == []


async def test_a_log_that_drops_whatever_is_looked_for_is_answered_too_old() -> None:
    async with bench(MemoryBroker(), window_bytes=4096) as gateway:
        market = gateway.market()
        await market.ticks(100)
        async with gateway.client() as client:
            await client.send(type="subscribe", products=["BTC-USD"])
            await client.reach(market)

            async def read(subject: str, cursor: str = "", *, limit: int = 1000) -> Page:
                raise PositionLost(subject, cursor, None)

            gateway.gateway.broker.read = read  # type: ignore[method-assign]  # the fault
            await client.send(type="subscribe", id=2, products=["BTC-USD"], from_seq=0)
            answer = await client.until(lambda m: m["type"] == "subscribed" and m.get("id") == 2)
            assert answer["results"][0]["warning"]["code"] == 4001
            await client.of("snapshot")


async def test_a_plan_that_fails_in_a_way_nobody_foresaw_costs_its_client_only() -> None:
    async with bench(MemoryBroker(), stream_linger_s=0.1) as gateway:
        market, other = gateway.market(), gateway.market("ETH-USD")
        await market.ticks(3)
        await other.ticks(3)
        async with gateway.client() as good, gateway.client() as bad:
            await good.send(type="subscribe", products=["ETH-USD"])
            await good.reach(other)
            feed = gateway.gateway.parts.streams.feeds[other.key]
            asked: list[str] = []

            async def start(
                feed: StreamFeed,
                from_seq: int,
                epoch: int | None,
                now_us: int,
                *,
                late: bool = False,
            ) -> Start:
                del from_seq, epoch, now_us, late
                asked.append(feed.key.product)
                if feed.key.product == "BTC-USD":
                    raise KeyError("nobody foresaw this")
                # It goes on while the other one fails.
                await eventually(lambda: len(gateway.gateway.sessions) == 1)
                raise Problem(TOO_OLD, "too old")

            gateway.gateway.parts.backfill.start = start  # type: ignore[method-assign]  # the fault
            await bad.send(
                type="subscribe",
                products=["ETH-USD", "BTC-USD"],
                from_seq=5,
                on_unrecoverable="error",
            )
            assert await bad.closed() == 1011
            await eventually(lambda: len(gateway.gateway.sessions) == 1)
            assert asked == ["ETH-USD", "BTC-USD"]
            await eventually(lambda: market.key not in gateway.gateway.parts.streams.feeds)
            assert feed.interest == 1
            await other.ticks(5)
            await good.reach(other)


async def test_a_hold_on_a_stream_is_released_once_however_often_it_is_said() -> None:
    async with bench(MemoryBroker()) as gateway:
        market = gateway.market()
        streams = gateway.gateway.parts.streams
        first, second = streams.acquire(market.key), streams.acquire(market.key)
        for _ in range(3):
            first.release()
        assert first.feed is second.feed
        assert second.feed.interest == 1


async def test_logs_that_do_not_answer_are_all_waited_for() -> None:
    # Breaks when a question goes on after its asker was told that it failed.
    broker = MemoryBroker()
    running = 0

    async def subjects(log: str) -> list[str]:
        nonlocal running
        running += 1
        try:
            for _ in range(int(log.removeprefix("tick."))):
                await asyncio.sleep(0)
            raise BrokerUnavailable("memory", "away")
        finally:
            running -= 1

    broker.subjects = subjects  # type: ignore[method-assign]  # the fault
    async with bench(MemoryBroker()) as gateway:
        parts, settings = gateway.gateway.parts, small_settings(shard_count=4)
        stores = parts.catalog._stores
        catalog = Catalog(FeedSources(broker, settings, stores, parts.records, parts.metrics))
        with pytest.raises(BrokerUnavailable):
            await catalog.streams()
        assert running == 0
