"""What is measured, started for a benchmark: brokers, and the gateway as deployed."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from services.common.settings import CommonSettings, child_environment
from services.common.stream import Broker, Publisher, Record
from services.common.stream.factory import open_broker
from services.common.stream.specs import log_specs
from services.gateway.testing import Market
from tools.embedded import NatsServer, ValkeyServer, free_port
from tools.embedded.process import EmbeddedServer, die_with_me
from tools.stack.process import Process

SHARDS = 8


@asynccontextmanager
async def server(kind: str) -> AsyncIterator[EmbeddedServer]:
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
async def child(*command: str, **options: Any) -> AsyncIterator[asyncio.subprocess.Process]:
    """A program that is ended when the block is left, and with this process."""
    process = await asyncio.create_subprocess_exec(*command, preexec_fn=die_with_me(), **options)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@asynccontextmanager
async def gateway_process(nats_url: str, **variables: str) -> AsyncIterator[tuple[int, int]]:
    """`python -m services.gateway` as deployed, until the block is left; its pid and port."""
    environment = child_environment(
        {
            "NATS_URLS": nats_url,
            "HTTP_HOST": "127.0.0.1",
            "LOG_LEVEL": "ERROR",
            # Nothing answers there; streams then begin with the log.
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}",
            "AWS_ACCESS_KEY_ID": "none",
            "AWS_SECRET_ACCESS_KEY": "none",
            **variables,
        }
    )
    with tempfile.TemporaryDirectory(prefix="mdf-bench-") as folder:
        gateway = Process(
            "gateway",
            "services.gateway",
            port=free_port(),
            log_dir=Path(folder),
            ready_path="/readyz",
            environment=lambda port: {**environment, "HTTP_PORT": str(port)},
        )
        try:
            await gateway.start()
            yield gateway.pid or 0, gateway.port
        finally:
            await gateway.kill()
