"""What a connection, a request or a stream leaves behind when it is over, with the collector off:
nothing. It runs rarely in a service that is tuned for latency, and what waits for it is memory."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from services.common.stream.memory.broker import MemoryBroker
from services.gateway.testing import Bench, Market, bench, eventually

_TIMES = 10


async def _idle(gateway: Bench, _market: Market) -> None:
    async with gateway.client() as client:
        await client.of("welcome")


async def _live(gateway: Bench, market: Market) -> None:
    async with gateway.client() as client:
        await client.send(type="subscribe", products=["BTC-USD"])
        await client.reach(market)


async def _caught_up(gateway: Bench, market: Market) -> None:
    async with gateway.client() as client:
        await client.send(type="subscribe", products=["BTC-USD"], from_seq=market.chain[1])
        await client.reach(market)


async def _cut_while_it_catches_up(gateway: Bench, _market: Market) -> None:
    async with gateway.client(max_queue=1) as client:
        await client.send(type="subscribe", products=["BTC-USD"], from_seq=0)
        await client.of("backfill")


async def _cut_while_it_is_answered(gateway: Bench, market: Market) -> None:
    async with gateway.client() as client:
        beyond = (market.seq or 0) + 1000
        await client.send(type="subscribe", products=["BTC-USD"], from_seq=beyond)
        await client.send(type="ping", id=1)
        await client.of("welcome")


async def _refused(gateway: Bench, _market: Market) -> None:
    async with gateway.client() as client:
        await client.send(type="subscribe", products=["NO-USD"], channels=["ticker", "nothing"])
        await client.of("subscribed")
        await client.send(type="unsubscribe", products=["NO-USD"])
        await client.of("unsubscribed")
        await client.send(type="resync", product="NO-USD")
        await client.of("error")


async def _cannot_go_on(gateway: Bench, _market: Market) -> None:
    async with gateway.client() as client:
        await client.send(
            type="subscribe", products=["BTC-USD"], from_seq=5, epoch=1, on_unrecoverable="error"
        )
        await client.of("error")


async def _abused(gateway: Bench, _market: Market) -> None:
    async with gateway.client() as client:
        await client.socket.send("{")
        await client.of("error")
        await client.socket.send(b"binary")
        await client.of("error")


async def _request(gateway: Bench, path: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
    await reader.read()
    writer.close()
    await writer.wait_closed()


async def _snapshot_request(gateway: Bench, _market: Market) -> None:
    await _request(gateway, "/v1/snapshot/BTC-USD")


async def _refused_request(gateway: Bench, _market: Market) -> None:
    await _request(gateway, "/v1/snapshot/NO-USD")


@asynccontextmanager
async def _no_collector() -> AsyncIterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


async def _gone(gateway: Bench, tasks: set[asyncio.Task[None]]) -> None:
    """Wait until no connection is left, and of the tasks those only that were there before."""
    await eventually(lambda: not gateway.gateway.sessions)
    await eventually(lambda: asyncio.all_tasks() <= tasks)


async def _left_behind(gateway: Bench, do: Callable[[], Awaitable[None]]) -> Counter[str]:
    """What only the collector would have found after doing it a number of times."""
    tasks = asyncio.all_tasks()
    for _ in range(3):
        await do()
    await _gone(gateway, tasks)
    async with _no_collector():
        for _ in range(_TIMES):
            await do()
        await _gone(gateway, tasks)
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        kinds = (f"{type(one).__module__}.{type(one).__qualname__}" for one in gc.garbage)
        return Counter(kinds)


@pytest.mark.parametrize(
    "do",
    [
        _idle,
        _live,
        _caught_up,
        _cut_while_it_catches_up,
        _cut_while_it_is_answered,
        _refused,
        _cannot_go_on,
        _abused,
        _snapshot_request,
        _refused_request,
    ],
)
async def test_nothing_is_left_for_the_collector(
    do: Callable[[Bench, Market], Awaitable[None]],
) -> None:
    async with bench(MemoryBroker(), ws_queue_bytes=20_000, window_bytes=20_000) as gateway:
        market = gateway.market()
        await market.ticks(500)
        async with gateway.client() as holds:
            # The stream stays, whoever comes and goes.
            await holds.send(type="subscribe", products=["BTC-USD"], mode="latest", max_rate=0.1)
            await holds.reach(market)
            sessions = gateway.gateway.sessions
            (kept,) = sessions
            del sessions[kept]
            try:
                found = await _left_behind(gateway, lambda: do(gateway, market))
            finally:
                sessions[kept] = None
        ours = {kind: count for kind, count in found.items() if kind.startswith("services.")}
        assert ours == {}


async def test_a_stream_that_nobody_wants_leaves_nothing_behind() -> None:
    async with bench(MemoryBroker(), stream_linger_s=0.02) as gateway:
        market = gateway.market()
        await market.ticks(50)
        feeds = gateway.gateway.parts.streams.feeds

        async def come_and_go() -> None:
            await _live(gateway, market)
            await eventually(lambda: not feeds)

        found = await _left_behind(gateway, come_and_go)
        assert {kind: count for kind, count in found.items() if kind.startswith("services.")} == {}
