"""For tests: a gateway on a free port, and stores in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from services.common.clock import now_us
from services.common.errors import StoreUnavailable
from services.common.stores.ports import (
    ArchiveReader,
    Checkpoint,
    CheckpointReader,
    LatestReader,
    LatestRow,
)
from services.common.stream import Broker, Position, Publisher
from services.common.stream.specs import log_specs
from services.common.subjects import StreamKey
from services.common.testing.waiting import WAIT_S
from services.gateway.app import serve
from services.gateway.chain.stream_record import StreamRecord
from services.gateway.lifecycle import Gateway
from services.gateway.metrics import Metrics
from services.gateway.settings import GatewaySettings
from services.gateway.testing.client import Client
from services.gateway.testing.market import Market


class Rows(LatestReader, CheckpointReader, ArchiveReader):
    """Stores in a dictionary. While `away` is set, they do not answer."""

    def __init__(self) -> None:
        self.away = False
        # The archived records of each stream, in order.
        self.archived: dict[StreamKey, list[bytes]] = {}
        self.asked = 0  # how often the archive was read
        self.rows: dict[StreamKey, LatestRow] = {}
        self.checkpoints: dict[str, Checkpoint] = {}

    async def get(self, key: StreamKey) -> LatestRow | None:
        self._answer()
        return self.rows.get(key)

    async def get_many(self, keys: Sequence[StreamKey]) -> Mapping[StreamKey, LatestRow]:
        self._answer()
        return {key: self.rows[key] for key in keys if key in self.rows}

    async def get_checkpoint(self, object_key: str) -> Checkpoint | None:
        self._answer()
        return self.checkpoints.get(object_key)

    async def read(self, key: StreamKey, shard: int, after: Position) -> AsyncGenerator[bytes]:
        del shard
        self.asked += 1
        self._answer()
        for payload in self.archived.get(key, []):
            if StreamRecord(payload).position > after:
                yield payload

    async def reached(self, key: StreamKey, shard: int, ts: int) -> Position | None:
        del shard
        self._answer()
        found = [StreamRecord(payload) for payload in self.archived.get(key, [])]
        older = [record.position for record in found if record.ts_ingest < ts]
        return older[-1] if older else None

    def _answer(self) -> None:
        if self.away:
            raise StoreUnavailable("memory", "away")


def small_settings(**more: Any) -> GatewaySettings:
    """Settings of a small gateway on a free port, whatever the environment says."""
    values: dict[str, Any] = {
        "http_port": 0,
        "http_host": "127.0.0.1",
        "shard_count": 2,
        "broker_kind": "memory",
        "ws_heartbeat_ms": 200,
        "stream_linger_s": 5,
        "drain_seconds": 1,
        **more,
    }
    return GatewaySettings(**values)


@dataclass(frozen=True)
class Bench:
    """A gateway that serves, and a publisher into its log."""

    gateway: Gateway
    port: int
    publisher: Publisher

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def market(self, product: str = "BTC-USD", channel: str = "ticker", **more: Any) -> Market:
        shards = self.gateway.settings.shard_count
        return Market(self.publisher, product, channel, shards=shards, **more)

    def client(self, path: str = "/ws", **options: Any) -> Client:
        return Client(f"ws://127.0.0.1:{self.port}{path}", **options)


@asynccontextmanager
async def bench(
    broker: Broker,
    writer: Broker | None = None,
    rows: Rows | None = None,
    archive: ArchiveReader | None = None,
    micros: Callable[[], int] = now_us,
    **more: Any,
) -> AsyncIterator[Bench]:
    """A gateway on `broker`; `writer` is another broker object on the same log (required).

    `micros` is the time of day by which the gateway judges ages.
    """
    settings = small_settings(**more)
    async with AsyncExitStack() as stack:
        stores = (rows, rows, archive or rows)
        gateway = Gateway(settings, broker, log_specs(settings), Metrics(), *stores, micros=micros)
        port = await stack.enter_async_context(serve(gateway))
        async with asyncio.timeout(WAIT_S):
            await gateway.ready.wait()
        publishing = writer or broker
        if writer is not None:
            await stack.enter_async_context(writer)
            await writer.ensure(log_specs(settings))
        publisher = await publishing.publisher()
        stack.push_async_callback(publisher.aclose)
        yield Bench(gateway, port, publisher)
