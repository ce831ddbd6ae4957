"""A snapshotter in this process, on real servers, and a proxy that can be cut."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from services.common.runtime import Stop
from services.common.settings import AwsSettings
from services.common.stores.dynamodb import DynamoLatestReader
from services.common.stores.s3 import S3ArchiveReader, S3CheckpointReader, S3Store
from services.common.stream import Broker, LogSpec, Publisher
from services.common.stream.memory import MemoryBroker, MemoryServer
from services.common.subjects import RAW_LOG, tick_log
from services.snapshotter.app import Snapshotter
from services.snapshotter.settings import SnapshotterSettings
from tools.embedded import AwsServer

SHARDS = 2
SPECS = [LogSpec(log, 3600.0) for log in (RAW_LOG, *(tick_log(n) for n in range(SHARDS)))]


class Proxy:
    """A TCP proxy in front of a server that refuses (`cut`) or swallows (`blackhole`) for a while."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._up = asyncio.Event()
        self._up.set()
        self._blackhole = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.port = 0

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def cut(self, *, blackhole: bool = False) -> None:
        self._blackhole = blackhole
        self._up.clear()
        if not blackhole:
            for writer in self._writers:
                writer.transport.abort()

    def mend(self) -> None:
        self._up.set()
        # Whoever waited for an answer of a swallowed request would wait for ever.
        for writer in self._writers:
            if self._blackhole:
                writer.transport.abort()

    async def aclose(self) -> None:
        if self._server is not None:
            self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            if not self._up.is_set() and not self._blackhole:
                return
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
            self._writers.add(far_writer)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._copy(reader, far_writer))
                    group.create_task(self._copy(far_reader, writer))
            finally:
                self._writers.discard(far_writer)
                far_writer.transport.abort()
        except* (OSError, asyncio.CancelledError):
            pass
        finally:
            self._writers.discard(writer)
            self._tasks.discard(task)
            writer.transport.abort()

    async def _copy(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65_536):
            await self._up.wait()
            sink.write(data)
            await sink.drain()
        if sink.can_write_eof():
            sink.write_eof()


class Platform:
    """The stores and a broker; `snapshotter` runs one in this process."""

    def __init__(self, server: AwsServer, proxy: Proxy, broker: Callable[[], Broker]) -> None:
        self.aws = AwsSettings(
            s3_bucket="test-archive", ddb_table="test-latest", aws_endpoint_url=server.url
        )
        self.proxy = proxy
        self.new_broker = broker

    def settings(self, **changes: object) -> SnapshotterSettings:
        values: dict[str, object] = {
            "s3_bucket": self.aws.s3_bucket,
            "ddb_table": self.aws.ddb_table,
            "aws_endpoint_url": f"http://127.0.0.1:{self.proxy.port}",
            "shard_count": SHARDS,
            "http_port": 0,
            "http_host": "127.0.0.1",
            "snapshot_period_ms": 20,
            "archive_period_s": 0.2,
            "checkpoint_period_s": 0.2,
            "stop_grace_s": 20,
        }
        return SnapshotterSettings.model_validate({**values, **changes})

    @contextlib.asynccontextmanager
    async def snapshotter(self, **changes: object) -> AsyncIterator[Snapshotter]:
        """Runs one while the block runs, then stops it as SIGTERM does."""
        stop = Stop()
        service = Snapshotter(self.settings(**changes), self.new_broker(), SPECS)
        async with asyncio.TaskGroup() as group:
            group.create_task(service.run(stop))
            try:
                yield service
            finally:
                stop.request("test")

    @contextlib.asynccontextmanager
    async def publisher(self) -> AsyncIterator[tuple[Broker, Publisher]]:
        async with self.new_broker() as broker:
            await broker.ensure(SPECS)
            publisher = await broker.publisher()
            yield broker, publisher
            await publisher.aclose()

    @contextlib.asynccontextmanager
    async def latest(self) -> AsyncIterator[DynamoLatestReader]:
        async with DynamoLatestReader(self.aws, consistent=True) as reader:
            yield reader

    @contextlib.asynccontextmanager
    async def objects(self) -> AsyncIterator[tuple[S3Store, S3ArchiveReader, S3CheckpointReader]]:
        async with S3Store(self.aws) as store:
            yield store, S3ArchiveReader(store), S3CheckpointReader(store)


async def until(condition: Callable[[], Awaitable[bool]], timeout: float = 30.0) -> None:
    """Ask until the condition holds."""
    async with asyncio.timeout(timeout):
        while not await condition():
            await asyncio.sleep(0.02)


@pytest.fixture
def eventually() -> Callable[..., Awaitable[None]]:
    return until


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
async def proxy(aws_server: AwsServer) -> AsyncIterator[Proxy]:
    made = Proxy(aws_server.port)
    await made.start()
    yield made
    await made.aclose()


@pytest.fixture
def platform(aws_server: AwsServer, proxy: Proxy) -> Platform:
    server = MemoryServer()
    return Platform(aws_server, proxy, lambda: MemoryBroker(server))
