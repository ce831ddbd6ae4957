"""Wires the snapshotter and owns its tasks: start order, readiness, stop order."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

import structlog
from starlette.applications import Starlette

from services.common.errors import (
    BrokerUnavailable,
    PlatformError,
    StoreError,
    StoreMissing,
    StoreUnavailable,
)
from services.common.observability.health import Health, Standstill, health_routes
from services.common.observability.statistics import observed
from services.common.runtime import Stop, patiently, serve_http
from services.common.stores.aws import DYNAMODB, S3
from services.common.stores.dynamodb import DynamoLatestReader
from services.common.stores.layout import RAW, TICKS
from services.common.stream import Broker, LogSpec
from services.common.subjects import RAW_LOG, tick_log
from services.snapshotter import metrics
from services.snapshotter.archiver import Archiver
from services.snapshotter.batch import Batch
from services.snapshotter.ddb import RowStore
from services.snapshotter.intake.pump import Pump
from services.snapshotter.restore import Restorer
from services.snapshotter.s3 import ArchiveLog, Bucket, CheckpointStore
from services.snapshotter.settings import SnapshotterSettings
from services.snapshotter.stream import Stream
from services.snapshotter.writers import CheckpointWriter, RowWriter, WriteScheduler

log = structlog.get_logger(__name__)

BROKER = "broker"
CONSUMING = "consuming"
# Records that wait for so long while none is taken are a fault of this process.
_NO_PROGRESS_S = 30.0
_PROBE_PERIOD_S = 5.0
_PROBE_TIMEOUT_S = 5.0
# Encoding a large book is CPU work, and two at once keep one connection busy.
_CHECKPOINTS_AT_ONCE = 2


@dataclass(eq=False)
class Snapshotter:
    """The service. `run` returns when it was asked to stop and has stored what it held."""

    _settings: SnapshotterSettings
    # Not open yet; `run` opens it, so that `/readyz` answers meanwhile, and closes it.
    _broker: Broker
    _specs: list[LogSpec]  # how the logs are to be kept
    # `run` opens and closes the stores.
    _rows: RowStore
    _bucket: Bucket
    _latest: DynamoLatestReader  # reads the rows, as they were written last
    health: Health = field(
        default_factory=lambda: Health("snapshotter", BROKER, DYNAMODB, S3, CONSUMING)
    )
    pumps: list[Pump] = field(default_factory=list)
    port: int | None = None
    listening: asyncio.Event = field(default_factory=asyncio.Event)
    _standstills: dict[str, Standstill] = field(default_factory=dict)

    @property
    def _ensure(self) -> dict[str, Callable[[], Awaitable[None]]]:
        create = self._settings.environment != "production"
        return {
            DYNAMODB: partial(self._rows.ensure, create=create),
            S3: partial(self._bucket.ensure, create=create),
        }

    async def run(self, stop: Stop) -> None:
        """Serve until `stop`.

        Raises:
            StoreMissing: (in a group) the table or bucket does not exist and may not be made.
            BrokerFailed: (in a group) a log's group broke. What was not stored is not acked, and
                is delivered again to whoever is started next.
        """
        settings = self._settings
        info = {"shards": settings.shards, "group": settings.group}
        application = Starlette(routes=health_routes(self.health, info, metrics.REGISTRY))
        port = settings.http_port if settings.admin_port is None else settings.admin_port
        async with (
            self._rows,
            self._bucket,
            self._latest,
            serve_http(application, settings.http_host, port, lifespan="off") as self.port,
            observed(metrics.REGISTRY, metrics.LOOP, metrics.STATISTICS),
        ):
            self.listening.set()
            try:
                if await stop.allows(self._prepare()):
                    await self._work(stop)
            finally:
                await self._broker.aclose()

    # ---------------------------------------------------------------- starting

    async def _prepare(self) -> None:
        """Wait for every dependency, making what may be made."""
        actions = {**self._ensure, BROKER: self._open_broker}
        async with asyncio.TaskGroup() as tasks:
            for check, action in actions.items():
                tasks.create_task(self._until_ok(action, check), name=check)

    async def _open_broker(self) -> None:
        self.health.failed(BROKER, "connecting")
        await self._broker.open()
        await self._broker.ensure(self._specs)

    async def _until_ok(self, action: Callable[[], Awaitable[None]], check: str) -> None:
        def unavailable(error: PlatformError) -> None:
            assert isinstance(error, BrokerUnavailable | StoreUnavailable)
            self.health.failed(check, error.reason)
            log.warning("dependency_unavailable", check=check, reason=error.reason)

        await patiently(action, (BrokerUnavailable, StoreUnavailable), unavailable)
        self.health.passed(check)

    # ---------------------------------------------------------------- working

    async def _work(self, stop: Stop) -> None:
        settings = self._settings
        pumps: dict[int | None, Pump] = {}

        async def on_stored(stream: Stream) -> None:
            await pumps[stream.shard].settle([stream])

        rows = WriteScheduler(
            settings.snapshot_period_ms / 1000,
            settings.snapshot_writers,
            RowWriter(self._rows, on_stored=on_stored, on_ok=self.health.passed).write,
            self._failed("row", DYNAMODB),
        )
        books = WriteScheduler(
            settings.checkpoint_period_s,
            _CHECKPOINTS_AT_ONCE,
            CheckpointWriter(
                CheckpointStore(self._bucket), self._rows, on_ok=self.health.passed
            ).write,
            self._failed("checkpoint", S3),
        )

        def on_changed(stream: Stream) -> None:
            if stream.view is None:
                return
            if stream.view.dirty:
                rows.changed(stream)
            if stream.view.checkpoint_behind:
                books.changed(stream, at_once=stream.view.pop_reset())

        restorer = Restorer(
            self._latest,
            self._bucket,
            settings.shard_count,
            self._failed("restore", DYNAMODB),
        )
        shards: list[int | None] = [*settings.shards, *([None] if settings.archive_raw else [])]
        for shard in shards:
            pumps[shard] = self._pump(shard, len(shards), restorer, on_changed)
        self.pumps = list(pumps.values())
        self._standstills = {pump.name: Standstill() for pump in self.pumps}
        async with asyncio.TaskGroup() as tasks:
            writing = [
                tasks.create_task(rows.run(), name="rows"),
                tasks.create_task(books.run(), name="checkpoints"),
                *(
                    tasks.create_task(pump.archiver.run(), name=f"archive:{pump.name}")
                    for pump in self.pumps
                ),
            ]
            taking = [
                tasks.create_task(self._consume(pump), name=f"consume:{pump.name}")
                for pump in self.pumps
            ]
            watching = tasks.create_task(self._watch(), name="watch")
            await stop.wait()
            # In the direction of the data: take no more, store what was taken, ack it, leave.
            await _cancel(taking)
            rows.drain()
            books.drain()
            for pump in self.pumps:
                pump.archiver.drain()
            _, late = await asyncio.wait(writing, timeout=settings.stop_grace_s)
            if late:
                names = sorted(task.get_name() for task in late)
                log.warning("stopped_before_all_was_stored", unfinished=names)
            await _cancel([*late, watching])
        for pump in self.pumps:
            await pump.aclose()

    def _pump(
        self,
        shard: int | None,
        count: int,
        restorer: Restorer,
        on_changed: Callable[[Stream], None],
    ) -> Pump:
        settings = self._settings
        name = RAW_LOG if shard is None else tick_log(shard)
        share = settings.buffer_max_bytes // count
        batch = Batch(
            RAW if shard is None else TICKS,
            period_s=settings.archive_period_s,
            # A batch is written before the bound on what is held would stop the intake for it.
            max_bytes=min(settings.archive_max_bytes, share // 2),
            max_records=settings.max_pending // 2,
        )
        archiver = Archiver(
            name,
            ArchiveLog(self._bucket, name),
            batch,
            on_ok=self.health.passed,
            on_error=self._failed("archive", S3),
        )
        return Pump(
            name,
            self._broker,
            restorer,
            archiver,
            buffer_bytes=share,
            on_changed=on_changed,
            on_broker=self._broker_unavailable,
        )

    async def _consume(self, pump: Pump) -> None:
        settings = self._settings
        await pump.join(
            settings.group, max_pending=settings.max_pending, ack_wait_s=settings.ack_wait_s
        )
        if all(each.joined for each in self.pumps):
            self.health.passed(CONSUMING)
        await pump.run()

    # ---------------------------------------------------------------- readiness

    def _failed(self, kind: str, check: str) -> Callable[[StoreError], None]:
        def on_error(error: StoreError) -> None:
            metrics.WRITE_ERRORS.labels(kind).inc()
            # Reading a checkpoint or naming it involves the other store as well.
            store = error.store if isinstance(error, StoreUnavailable | StoreMissing) else check
            self.health.failed(store, str(error))
            log.warning("store_failed", kind=kind, reason=str(error))

        return on_error

    def _broker_unavailable(self, error: BrokerUnavailable) -> None:
        self.health.failed(BROKER, error.reason)

    async def _watch(self) -> None:
        """Ask every dependency now and then, so that `/readyz` is true when nothing happens.

        What development may create and finds missing (an emptied local store) is made again.
        """
        questions = {**self._ensure, BROKER: self._probe_broker}
        while True:
            await asyncio.sleep(_PROBE_PERIOD_S)
            async with asyncio.TaskGroup() as asking:
                for check, question in questions.items():
                    asking.create_task(self._ask(check, question))
            metrics.BOOKS_WAITING.set(
                sum(
                    stream.view is not None and not stream.view.whole
                    for pump in self.pumps
                    for stream in pump.streams.values()
                )
            )

    async def _probe_broker(self) -> None:
        # First what can be asked of a broker that stores nothing.
        self.health.tell_hazards(BROKER, self._broker.hazards())
        await self._judge_progress()
        await self._broker.ping()

    async def _judge_progress(self) -> None:
        """Say whether records are taken: a broker that answers and a task that lives prove nothing.

        Raises:
            BrokerUnavailable: the broker does not answer.
        """
        problems = []
        for pump in self.pumps:
            if not pump.joined:
                problems.append(f"{pump.name}: has not joined its group yet")
                continue
            waiting, now = await pump.waiting(), asyncio.get_running_loop().time()
            stood = self._standstills[pump.name]
            idle_s = stood.seen(waiting=waiting > 0, mark=pump.taken, now=now)
            if idle_s > _NO_PROGRESS_S:
                problems.append(
                    f"{pump.name}: {waiting} records wait, none taken for {idle_s:.0f} s"
                )
        self.health.judge(CONSUMING, problems)

    async def _ask(self, check: str, question: Callable[[], Awaitable[None]]) -> None:
        async with self.health.asking(check, _PROBE_TIMEOUT_S):
            await question()


async def _cancel(tasks: Iterable[asyncio.Task[None]]) -> None:
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
