"""Gateways are replaced under load: clients move on with their cursors and miss nothing."""

from __future__ import annotations

import asyncio

from services.common.stream.memory.broker import MemoryBroker, MemoryServer
from services.gateway.testing import Bench, Client, Market, bench

CLIENTS = 40


async def follow(
    gateways: list[Bench], market: Market, done: asyncio.Event, started: asyncio.Semaphore
) -> tuple[list[int], list[int | None]]:
    """Follow one stream over every drain; the seqs received, and the codes of all closes."""
    seen: list[int] = []
    closes: list[int | None] = []
    cursor: str | None = None
    for gateway in gateways:
        async with gateway.client() as client:
            position = {"cursor": cursor} if cursor else {}
            await client.send(type="subscribe", product="BTC-USD", **position)
            await client.of("subscribed")
            started.release()
            if gateway is gateways[-1]:
                await done.wait()
                await client.reach(market)
            else:
                cursor = await _until_closed(client, market, closes)
            assert client.breaks == []
            seen += client.seen.get(str(market.key), [])
    return seen, closes


async def _until_closed(client: Client, market: Market, closes: list[int | None]) -> str:
    closes.append(await client.closed())
    # What came after the drain message counts too: the client knows best what it holds.
    return f"{market.epoch}.{client.held[str(market.key)]}"


async def test_clients_that_resume_miss_nothing_and_get_nothing_twice() -> None:
    server = MemoryServer()
    async with (
        bench(MemoryBroker(server)) as first,
        bench(MemoryBroker(server)) as second,
        bench(MemoryBroker(server)) as third,
    ):
        market = first.market()
        await market.ticks(20)
        gateways = [first, second, third]
        done = asyncio.Event()
        started = asyncio.Semaphore(0)
        stop = asyncio.Event()

        async def trade() -> None:
            while not stop.is_set():
                await market.ticks(2)
                await asyncio.sleep(0.002)

        async with asyncio.TaskGroup() as group:
            trading = group.create_task(trade())
            clients = [
                group.create_task(follow(gateways, market, done, started)) for _ in range(CLIENTS)
            ]
            for gateway in (first, second):
                for _ in range(CLIENTS):
                    await started.acquire()
                await gateway.gateway.drain()
            for _ in range(CLIENTS):
                await started.acquire()
            stop.set()
            await trading
            done.set()
        chain = market.chain
        for task in clients:
            seen, closes = task.result()
            assert seen == chain[len(chain) - len(seen) :]
            assert closes == [1012, 1012]
