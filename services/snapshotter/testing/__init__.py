"""A snapshotter in the test's process, on real stores behind a proxy."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
from collections.abc import AsyncIterator, Callable
from typing import Self

from services.common.runtime import Stop
from services.common.settings import AwsSettings
from services.common.stores.aws import Limits
from services.common.stores.dynamodb import DynamoLatestReader
from services.common.stores.s3 import S3Store
from services.common.stores.s3_archive import S3ArchiveReader
from services.common.stream import Broker, LogSpec, Publisher
from services.common.subjects import RAW_LOG, tick_log
from services.common.testing.proxy import Proxy
from services.common.testing.waiting import eventually
from services.snapshotter.app import Snapshotter
from services.snapshotter.ddb import RowStore
from services.snapshotter.s3 import Bucket
from services.snapshotter.settings import SnapshotterSettings

SHARDS = 2
# A test that looks at what is stored waits for the answer as long as a busy machine takes for it.
PATIENT = Limits(connect_s=60.0, read_s=60.0, attempts=3, connections=64)
SPECS = [LogSpec(log, 3600.0) for log in (RAW_LOG, *(tick_log(n) for n in range(SHARDS)))]


class Platform:
    """The stores and a broker; `snapshotter` runs one in this process."""

    def __init__(self, url: str, proxy: Proxy, broker: Callable[[], Broker]) -> None:
        self.aws = AwsSettings(
            s3_bucket="test-archive", ddb_table="test-latest", aws_endpoint_url=url
        )
        self.proxy = proxy
        self.new_broker = broker
        self.latest = DynamoLatestReader(self.aws, consistent=True, limits=PATIENT)
        self.store = S3Store(self.aws, limits=PATIENT)
        self.archive = S3ArchiveReader(self.store)
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self.latest)
        await self._stack.enter_async_context(self.store)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._stack.aclose()

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
    async def snapshotter(
        self, *, wait: bool = True, **changes: object
    ) -> AsyncIterator[Snapshotter]:
        """Runs one while the block runs (ready first, with `wait`), then stops it as by SIGTERM."""
        stop = Stop()
        service = self._made(self.settings(**changes))
        async with asyncio.TaskGroup() as group:
            group.create_task(service.run(stop))
            try:
                if wait:
                    await eventually(lambda: _ready(service))
                yield service
            finally:
                stop.request("test")

    async def crashing_snapshotter(self) -> None:
        """Runs one until the task is cancelled, with nothing stored or acked at the end."""
        await self._made(self.settings()).run(Stop())

    def _made(self, settings: SnapshotterSettings) -> Snapshotter:
        rows, bucket = RowStore(settings), Bucket(settings)
        latest = DynamoLatestReader(settings, consistent=True)
        return Snapshotter(settings, self.new_broker(), SPECS, rows, bucket, latest)

    async def lines(self, prefix: str) -> list[bytes]:
        """Every line of the objects whose names begin so, in the order of the names."""
        keys = await self.store.keys(prefix)
        contents = [await self.store.get(key) for key in keys]
        return [
            line for stored in contents if stored for line in gzip.decompress(stored).splitlines()
        ]

    @contextlib.asynccontextmanager
    async def publisher(self) -> AsyncIterator[tuple[Broker, Publisher]]:
        async with self.new_broker() as broker:
            await broker.ensure(SPECS)
            publisher = await broker.publisher()
            yield broker, publisher
            await publisher.aclose()


async def _ready(service: Snapshotter) -> bool:
    return service.health.ready
