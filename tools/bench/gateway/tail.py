"""Following a log live: core subscriptions on its subjects, beside JetStream's ordered push."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import NamedTuple

from services.common.stream import Publisher
from services.common.stream.nats.connection import Connection
from services.common.stream.nats.link import Link, NatsOptions
from services.common.subjects import log_subjects, tick_log
from services.gateway.testing import Market
from tools.bench.registry import Run, bench, process_cpu_s, quantile
from tools.bench.servers import publisher_on
from tools.embedded import NatsLeaf, NatsServer, free_port

_READERS = 10
_PACED_PER_S = 500
_LOG = tick_log(0)
_STREAM = "MARKET_TICK_0"
_INGESTED = re.compile(rb'"ts_ingest":(\d{16})')


class _Reader:
    """One gateway's tail: counts what comes and how old it was, microseconds."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.count = 0
        self.ages: list[int] = []
        self.arrived = asyncio.Event()

    def take(self, _subject: str, reply: str, headers: bytes, payload: bytes) -> None:
        if headers.startswith(b"NATS/1.0 100"):
            # A heartbeat, or flow control, which wants an answer.
            if reply:
                self.connection.write(f"PUB {reply} 0\r\n\r\n".encode())
            return
        self.count += 1
        found = _INGESTED.search(payload)
        self.ages.append(time.time_ns() // 1000 - int(found[1]) if found else 0)
        self.arrived.set()

    async def reach(self, count: int) -> None:
        async with asyncio.timeout(60):
            while self.count < count:
                self.arrived.clear()
                await self.arrived.wait()


async def _none(_reader: _Reader) -> None:
    """The publishing alone."""


async def _core(reader: _Reader) -> None:
    reader.connection.subscribe(log_subjects(_LOG), reader.take)
    await reader.connection.client.flush()


async def _push(reader: _Reader) -> None:
    inbox = reader.connection.new_inbox()
    reader.connection.subscribe(inbox, reader.take)
    config = {
        "deliver_subject": inbox,
        "deliver_policy": "new",
        "ack_policy": "none",
        "max_deliver": 1,
        "flow_control": True,
        "idle_heartbeat": 5_000_000_000,
        "mem_storage": True,
        "num_replicas": 1,
        "inactive_threshold": 5_000_000_000,
    }
    await reader.connection.api(
        f"CONSUMER.CREATE.{_STREAM}", {"stream_name": _STREAM, "config": config}
    )


class _Way(NamedTuple):
    follow: Callable[[_Reader], Awaitable[None]]
    at_leaf: bool = False


_NOBODY = "nobody follows"
_WAYS = {
    _NOBODY: _Way(_none),
    f"{_READERS} core subscriptions": _Way(_core),
    f"{_READERS} core subscriptions at one leaf node": _Way(_core, at_leaf=True),
    f"{_READERS} ordered push consumers": _Way(_push),
}


@bench("tail")
async def tail(run: Run) -> None:
    """What ten live readers of a log cost nats-server, and how old records are when they come."""
    count = 1_000 if run.quick else 20_000
    seconds = 1.0 if run.quick else 4.0
    ages: dict[str, list[int]] = {name: [] for name in _WAYS}
    leaf_s = 0.0
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(NatsServer(leaf_port=free_port()))
        leaf = await stack.enter_async_context(NatsLeaf(server))
        publisher = await stack.enter_async_context(publisher_on(server, shards=1))
        market = Market(publisher, shards=1, padding=40)
        await market.ticks(1)
        for _ in range(run.rounds):
            for name, way in _WAYS.items():
                options = NatsOptions((leaf.url if way.at_leaf else server.url,))
                links = [Link(options, f"tail-{number}") for number in range(_READERS)]
                readers = [_Reader(await link.connected()) for link in links]
                for reader in readers:
                    await way.follow(reader)
                if way.at_leaf:
                    # Until the hub knows of the interest, nothing comes.
                    await _heard(publisher, market, readers)
                followed = name != _NOBODY
                records = [market.tick() for _ in range(count)]
                before = process_cpu_s(leaf.pid)
                with run.measure(name, server, unit="record") as sample:
                    sample.count = count
                    for record in records:
                        await publisher.send(record)
                    await publisher.flush()
                    if followed:
                        for reader in readers:
                            await reader.reach(count)
                if way.at_leaf:
                    leaf_s += process_cpu_s(leaf.pid) - before
                if followed:
                    for reader in readers:
                        reader.ages.clear()
                    await _paced(publisher, market, seconds)
                    for reader in readers:
                        await reader.reach(count + int(seconds * _PACED_PER_S))
                        ages[name] += reader.ages
                for link in links:
                    await link.aclose()
    alone = run.case(_NOBODY).server_us()
    deliveries = []
    for name, found in ages.items():
        whole = run.case(name).server_us()
        if not found or alone is None or whole is None:
            continue
        more = whole[0] - alone[0]
        cost = f"{more / _READERS:.2f} us of the server a delivery"
        if _WAYS[name].at_leaf:
            used = 1e6 * leaf_s / run.rounds / count / _READERS
            cost = f"{more:.2f} us of the hub a record, {used:.2f} us of the leaf a delivery"
            deliveries.append({"figure": "leaf_delivery_us", "us": used})
        elif _WAYS[name].follow is _core:
            deliveries.append({"figure": "nats_delivery_us", "us": more / _READERS})
        run.note(
            name,
            f"{cost}; at {_PACED_PER_S}/s p50 {quantile(found, 0.5)} us, "
            f"p99 {quantile(found, 0.99)} us after publishing",
        )
    run.results["deliveries"] = deliveries


async def _heard(publisher: Publisher, market: Market, readers: Sequence[_Reader]) -> None:
    """Publish until each of them hears it, then forget that."""
    while not all(reader.count for reader in readers):
        await publisher.send(market.tick())
        await publisher.flush()
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.2)
    for reader in readers:
        reader.count = 0
        reader.ages.clear()


async def _paced(publisher: Publisher, market: Market, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    begun = loop.time()
    for number in range(int(seconds * _PACED_PER_S)):
        await publisher.send(market.tick())
        await asyncio.sleep(begun + number / _PACED_PER_S - loop.time())
    await publisher.flush()
