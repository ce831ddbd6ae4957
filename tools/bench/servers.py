"""What is measured, started for a benchmark: brokers, and the gateway as deployed."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager

from services.common.settings import CommonSettings, child_environment
from services.common.stream import Broker, Publisher, Record
from services.common.stream.factory import open_broker
from services.common.stream.specs import log_specs
from services.common.testing.waiting import eventually
from services.gateway.testing import Market
from tools.embedded import NatsServer, ValkeyServer, free_port
from tools.embedded.process import EmbeddedServer, die_with_parent

SHARDS = 8
_START_S = 120


@asynccontextmanager
async def server(kind: str) -> AsyncIterator[EmbeddedServer]:
    """A fresh `nats` or `redis` server."""
    async with NatsServer() if kind == "nats" else ValkeyServer() as found:
        yield found


@asynccontextmanager
async def broker(
    kind: str, on: EmbeddedServer | None, *, shards: int = SHARDS
) -> AsyncIterator[Broker]:
    """An open broker of that kind, its logs made; `memory` is on no server."""
    settings = CommonSettings.model_validate(
        {
            "broker_kind": kind,
            "shard_count": shards,
            **({} if on is None else {"nats_urls": on.url, "redis_url": on.url}),
        }
    )
    async with open_broker(settings) as found:
        await found.ensure(log_specs(settings))
        yield found


@asynccontextmanager
async def publisher_on(on: EmbeddedServer, *, shards: int) -> AsyncIterator[Publisher]:
    """A publisher to the logs of a nats-server, which are made."""
    async with broker("nats", on, shards=shards) as found:
        publisher = await found.publisher()
        try:
            yield publisher
        finally:
            await publisher.aclose()


async def offer_all(publisher: Publisher, records: Iterable[Record]) -> None:
    """Pipelined, and durable when this returns."""
    for record in records:
        if publisher.offer(record) is None:
            await publisher.send(record)
    await publisher.flush()


async def publish(found: Broker, records: Iterable[Record]) -> None:
    """By a publisher of its own; durable when this returns."""
    publisher = await found.publisher()
    await offer_all(publisher, records)
    await publisher.aclose()


@asynccontextmanager
async def trading(market: Market, per_s: float) -> AsyncIterator[None]:
    """Publish so many ticks a second while the block runs; what was held up a little follows."""

    async def trade() -> None:
        due = time.perf_counter()
        while True:
            await market.ticks(1)
            due = max(due + 1 / per_s, time.perf_counter() - 0.1)
            await asyncio.sleep(max(0.0, due - time.perf_counter()))

    async with asyncio.TaskGroup() as group:
        task = group.create_task(trade())
        yield
        task.cancel()


@asynccontextmanager
async def gateway_process(
    nats_url: str, port: int, variables: Mapping[str, str]
) -> AsyncIterator[int]:
    """`python -m services.gateway` as deployed, until the block is left; its pid, once ready."""
    environment = child_environment(
        {
            "NATS_URLS": nats_url,
            "HTTP_HOST": "127.0.0.1",
            "HTTP_PORT": str(port),
            "LOG_LEVEL": "ERROR",
            # Nothing answers there; streams then begin with the log.
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}",
            "AWS_ACCESS_KEY_ID": "none",
            "AWS_SECRET_ACCESS_KEY": "none",
            **variables,
        }
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.gateway"),
        env=environment,
        preexec_fn=die_with_parent,
    )
    try:
        await eventually(lambda: _ready(port), "the gateway's readiness", _START_S, every=0.05)
        yield process.pid
    finally:
        process.kill()
        await process.wait()


async def _ready(port: int) -> bool:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.write(b"GET /readyz HTTP/1.0\r\n\r\n")
    line = await reader.readline()
    writer.close()
    return b" 200 " in line
