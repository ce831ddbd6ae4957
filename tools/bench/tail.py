"""Following a log live: core subscriptions on its subjects, beside JetStream's ordered push."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from services.common.stream import Publisher
from services.common.stream.nats import NatsBroker
from services.common.stream.nats_link import Connection, Link, NatsOptions
from services.common.stream.specs import log_specs
from services.common.subjects import log_subjects, tick_log
from services.gateway.testing import Market, small_settings
from tools.bench.registry import Run, bench
from tools.embedded import NatsServer

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


_WAYS: dict[str, Callable[[_Reader], Awaitable[None]]] = {
    "nobody follows": _none,
    f"{_READERS} core subscriptions": _core,
    f"{_READERS} ordered push consumers": _push,
}


@bench("tail")
async def tail(run: Run) -> None:
    """What ten live readers of a log cost nats-server, and how old records are when they come."""
    count = 1_000 if run.quick else 20_000
    seconds = 1.0 if run.quick else 4.0
    ages: dict[str, list[int]] = {name: [] for name in _WAYS}
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(NatsServer())
        broker = await stack.enter_async_context(NatsBroker((server.url,)))
        await broker.ensure(log_specs(small_settings(shard_count=1)))
        publisher = await broker.publisher()
        stack.push_async_callback(publisher.aclose)
        market = Market(publisher, shards=1, padding=40)
        await market.ticks(1)
        for _ in range(run.rounds):
            for name, follow in _WAYS.items():
                links = [Link(NatsOptions((server.url,)), f"tail-{n}") for n in range(_READERS)]
                readers = [_Reader(await link.connected()) for link in links]
                for reader in readers:
                    await follow(reader)
                followed = follow is not _none
                records = [market.tick() for _ in range(count)]
                with run.measure(name, server, unit="record") as sample:
                    sample.count = count
                    for record in records:
                        await publisher.send(record)
                    await publisher.flush()
                    if followed:
                        for reader in readers:
                            await reader.reach(count)
                if followed:
                    for reader in readers:
                        reader.ages.clear()
                    await _paced(publisher, market, seconds)
                    for reader in readers:
                        await reader.reach(count + int(seconds * _PACED_PER_S))
                        ages[name] += reader.ages
                for link in links:
                    await link.aclose()
    alone = run.case("nobody follows").server_us()
    for name, found in ages.items():
        whole = run.case(name).server_us()
        if found and alone is not None and whole is not None:
            found.sort()
            run.note(
                name,
                f"{(whole[0] - alone[0]) / _READERS:.2f} us of the server a delivery; at "
                f"{_PACED_PER_S}/s p50 {found[len(found) // 2]} us, "
                f"p99 {found[int(len(found) * 0.99)]} us after publishing",
            )


async def _paced(publisher: Publisher, market: Market, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    begun = loop.time()
    for number in range(int(seconds * _PACED_PER_S)):
        await publisher.send(market.tick())
        await asyncio.sleep(begun + number / _PACED_PER_S - loop.time())
    await publisher.flush()
