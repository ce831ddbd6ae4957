"""The normalizer's wiring: HTTP, broker, pipeline, monitor, and the order of stopping."""

from __future__ import annotations

import asyncio
import socket
import time

import structlog
from starlette.applications import Starlette

from services.common.errors import LogWentBack
from services.common.lines.keeper import LeaseLost, LineKeeper, TickBeats
from services.common.observability.health import Health, Standstill, health_routes
from services.common.observability.statistics import observed
from services.common.resilience import Backoff
from services.common.runtime import Stop, serve_http
from services.common.stream import Broker
from services.common.stream.retention import RetentionWatch
from services.common.stream.specs import log_specs
from services.common.subjects import pulse_key, tick_log
from services.normalizer.metrics import STATISTICS, Metrics
from services.normalizer.pipeline import Pipeline
from services.normalizer.restore import patiently
from services.normalizer.settings import NormalizerSettings

log = structlog.get_logger(__name__)

_MONITOR_S = 2.0
# Until the group was joined, or another line is known to work.
_BEGIN_S = 0.1
_PING_TIMEOUT_S = 5.0
_NO_PROGRESS_S = 30.0
# One that stood by, ready to take over, and does, stays so while it joins its group.
_JOIN_S = 5.0
# Between a pipeline that found the tick log without its end, and the next.
_ANEW_S = (0.05, 1.0)
# How long a stop waits for what was taken to become durable; afterwards it is left to redelivery.
_DRAIN_S = 10.0


class App:
    """One normalizer. `serve` returns after `stop` was requested and everything is closed."""

    def __init__(self, settings: NormalizerSettings, broker: Broker, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._broker = broker
        self.health = Health("normalizer", "broker", "consuming")
        self._standstill = Standstill()
        self._pipeline: Pipeline | None = None

    async def serve(self, stop: Stop) -> None:
        """Serve until `stop`.

        Raises:
            OSError: the HTTP port is taken.
            BrokerClosed: (in a group) the broker was closed underneath.
            BrokerFailed: (in a group) publisher or group broke. What was not acknowledged is
                delivered again to whoever is started next, and gives the same bytes.
        """
        settings = self._settings
        info = {"shards": sorted(settings.shards), "group": settings.group}
        http = Starlette(routes=health_routes(self.health, info, self._metrics.registry))
        port = settings.http_port if settings.admin_port is None else settings.admin_port
        async with (
            serve_http(http, settings.http_host, port),
            observed(self._metrics.registry, self._metrics.loop, STATISTICS),
            asyncio.TaskGroup() as tasks,
        ):
            work = tasks.create_task(self._work(stop), name="work")
            tasks.create_task(self._end(stop, work), name="end")

    async def _end(self, stop: Stop, work: asyncio.Task[None]) -> None:
        """After a stop: let the pipeline finish what it took, but not for ever."""
        await stop.wait()
        self.health.failed("consuming", "stopping")
        if self._pipeline is not None:
            await asyncio.wait((work,), timeout=_DRAIN_S)
        if not work.done():
            log.warning("drain_given_up", after_s=_DRAIN_S if self._pipeline else 0)
            work.cancel()

    async def _work(self, stop: Stop) -> None:
        settings = self._settings
        async with self._broker:
            await patiently(lambda: self._broker.ensure(log_specs(settings)))
            async with asyncio.TaskGroup() as tasks:
                logs = {tick_log(shard) for shard in settings.shards}
                own = [spec for spec in log_specs(settings) if spec.log in logs]
                retention = RetentionWatch(self._broker, own, self._metrics.retention_cut)
                watch = tasks.create_task(retention.run(), name="retention")
                if settings.normalizer_standby:
                    while await self._lost_lease(stop):
                        log.info("stands_by", group=settings.group)
                else:
                    await self._pipelines(stop)
                watch.cancel()

    async def _lost_lease(self, stop: Stop) -> bool:
        """Stand by, then work, until `stop`; or until another line takes over: then True."""
        settings = self._settings
        shard = min(settings.shards)
        beats = TickBeats(shard, pulse_key("normalizer", f"line-{settings.group}"))
        takeover_s = settings.normalizer_takeover_ms / 1000
        name, lost = socket.gethostname(), False
        async with LineKeeper(self._broker, beats, name, takeover_s) as keeper:
            try:
                async with asyncio.TaskGroup() as tasks:
                    keeping = tasks.create_task(keeper.run(), name="lease")
                    if await self._stood_by(keeper, stop):
                        await self._pipelines(stop)
                    keeping.cancel()
            except* LeaseLost:
                # What was not finished is delivered to the other one, and gives the same bytes.
                self._pipeline, lost = None, True
            else:
                await keeper.release()
        return lost

    async def _pipelines(self, stop: Stop) -> None:
        """One pipeline, and another one after each that found its tick log without its end."""
        backoff = Backoff(*_ANEW_S)
        while True:
            if await self._finished(stop):
                return
            await asyncio.sleep(backoff.next_delay())

    async def _stood_by(self, keeper: LineKeeper, stop: Stop) -> bool:
        """Wait until this line works; False: it was told to stop before."""
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(self._watch_other(keeper, stop), name="other-line")
            works = await stop.allows(keeper.active())
            watching.cancel()
        return works

    async def _watch_other(self, keeper: LineKeeper, stop: Stop) -> None:
        """Keep `/readyz` telling the truth while another line works, or one is being looked for."""
        self._metrics.line_active.set(0)
        while not stop.requested:
            async with self.health.asking("broker", _PING_TIMEOUT_S):
                await self._broker.ping()
            if keeper.stands_by:
                self.health.passed("consuming")
            self._metrics.lag_messages.labels(self._settings.shards_label).set(0)
            await asyncio.sleep(_MONITOR_S if keeper.stands_by else _BEGIN_S)

    async def _finished(self, stop: Stop) -> bool:
        """Run a pipeline; False: the tick log lost what it built upon, and another has to begin."""
        finished = True
        self._metrics.line_active.set(1)
        settings = self._settings
        pipeline = self._pipeline = Pipeline(
            self._broker,
            self._metrics,
            group=settings.group,
            shard_count=settings.shard_count,
            shards=settings.shards,
            max_batch=settings.normalizer_max_batch,
            max_pending=settings.normalizer_max_pending,
        )
        try:
            async with asyncio.TaskGroup() as tasks:
                monitor = tasks.create_task(self._monitor(pipeline, stop), name="monitor")
                await pipeline.run(stop)
                monitor.cancel()
        except* LogWentBack:
            log.warning("begun_anew", group=settings.group)
            finished = stop.requested
        return finished

    async def _monitor(self, pipeline: Pipeline, stop: Stop) -> None:
        """Keep `/readyz` and the lag metrics telling the truth."""
        begun = time.monotonic()
        while not stop.requested:
            async with self.health.asking("broker", _PING_TIMEOUT_S):
                # First what can be asked of a broker that stores nothing.
                self._judge(pipeline, await pipeline.lag(), time.monotonic() - begun)
                await self._broker.ping()
            self.health.tell_hazards("broker", self._broker.hazards())
            self._metrics.unconfirmed_seconds.set(self._broker.storing().stalled_s)
            await asyncio.sleep(_MONITOR_S if pipeline.joined else _BEGIN_S)

    def _judge(self, pipeline: Pipeline, lag: int, begun_s: float) -> None:
        label = self._settings.shards_label
        self._metrics.lag_messages.labels(label).set(lag)
        behind = time.time() - pipeline.newest_ts_recv / 1e6 if lag else 0.0
        self._metrics.lag_seconds.labels(label).set(behind if pipeline.newest_ts_recv else 0)
        idle_s = self._standstill.seen(
            waiting=lag > 0, mark=pipeline.worked_at, now=time.monotonic()
        )
        if not pipeline.joined:
            if begun_s >= _JOIN_S or self.health.checks["consuming"].reason is not None:
                self.health.failed("consuming", "has not joined its group yet")
        elif idle_s > _NO_PROGRESS_S:
            self.health.failed("consuming", f"{lag} raw records wait, none done for {idle_s:.0f} s")
        else:
            self.health.passed("consuming")
