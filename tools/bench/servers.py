"""Embedded brokers for benchmarks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from services.common.settings import CommonSettings
from services.common.stream import Broker, Record
from services.common.stream.factory import open_broker
from services.common.stream.specs import log_specs
from tools.embedded import NatsServer, ValkeyServer
from tools.embedded.process import EmbeddedServer

SHARDS = 8


@asynccontextmanager
async def server(kind: str) -> AsyncIterator[EmbeddedServer]:
    """A fresh `nats` or `redis` server."""
    async with NatsServer() if kind == "nats" else ValkeyServer() as found:
        yield found


@asynccontextmanager
async def broker(kind: str, on: EmbeddedServer) -> AsyncIterator[Broker]:
    """An open broker of that kind, its logs made."""
    settings = CommonSettings.model_validate(
        {"broker_kind": kind, "nats_urls": on.url, "redis_url": on.url, "shard_count": SHARDS}
    )
    async with open_broker(settings) as found:
        await found.ensure(log_specs(settings))
        yield found


async def publish(found: Broker, records: Iterable[Record]) -> None:
    """Pipelined, and durable when this returns."""
    publisher = await found.publisher()
    for record in records:
        if publisher.offer(record) is None:
            await publisher.send(record)
    await publisher.flush()
    await publisher.aclose()
