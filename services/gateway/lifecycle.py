"""The gateway as a whole: its shared parts, its connections, its clock, its way of going away."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import structlog

from services.common.clock import now_us
from services.common.errors import BrokerError, BrokerUnavailable
from services.common.observability.health import Health
from services.common.stores.ports import ArchiveReader, CheckpointReader, LatestReader
from services.common.stream import Broker, LogSpec
from services.gateway.admission.addresses import Door, KeyGuesses, Proxies
from services.gateway.admission.auth import KeyRing, Places
from services.gateway.backfill import Backfill
from services.gateway.clients.dependencies import GatewayParts
from services.gateway.clients.session import Session, SessionHost
from services.gateway.fanout.hub import Hub
from services.gateway.fanout.push_batch import Turns
from services.gateway.history.archive import Archive
from services.gateway.metrics import Metrics
from services.gateway.settings import GatewaySettings
from services.gateway.streams.catalog import Catalog
from services.gateway.streams.feed import FeedSources
from services.gateway.streams.record_reader import RecordReader
from services.gateway.streams.registry import StreamRegistry
from services.gateway.streams.state_store import StateStore
from services.gateway.websocket.rfc6455.frames import CloseCode

log = structlog.get_logger(__name__)

# The heartbeat's work is spread over this many turns of one heartbeat.
_SLICES = 20
_BROKER_CHECK_S = 2.0
_FRESHNESS_CHECK_S = 0.5
# Most clients come back at once to another gateway; the spread keeps that one from being overrun.
_RECONNECT_MS = (100, 3000)


class Gateway(SessionHost):
    """Enter `running` for as long as the service lives.

    The broker is opened in there, and closed at its end. Until it answers, `open` is False and
    nobody may be let in.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        broker: Broker,
        specs: Sequence[LogSpec],
        metrics: Metrics,
        latest: LatestReader | None = None,
        checkpoints: CheckpointReader | None = None,
        archive: ArchiveReader | None = None,
        *,
        micros: Callable[[], int] = now_us,
    ) -> None:
        self.settings = settings
        self.broker = broker
        self.metrics = metrics
        # What stores cannot do is `degraded`: all gateways share them, and if their absence made
        # all unready, clients that can be served from the log would be served by nobody.
        self.health = Health("gateway", "broker", "serving")
        self.ready = asyncio.Event()
        self.sessions: dict[Session, None] = {}
        self.draining = False
        self._group: asyncio.TaskGroup | None = None
        self._emptied = asyncio.Event()
        self._specs = specs
        self.open = False
        loop = asyncio.get_running_loop()
        turns = Turns(
            loop.call_soon,
            lambda when, call: loop.call_later(max(0.0, when - time.monotonic()), call),
            time.monotonic,
        )
        hub = Hub(
            turns,
            micros,
            settings.product_max_msgs_per_sec,
            settings.flush_window_ms / 1000,
            most=min(128 * 1024, settings.ws_queue_bytes),
        )
        stores = StateStore(latest, checkpoints, self.health, metrics)
        records = RecordReader(metrics)
        sources = FeedSources(broker, settings, stores, records, metrics, micros=micros)
        max_age_us = int(settings.backfill_max_minutes * 60e6)
        self.parts = GatewayParts(
            settings,
            metrics,
            records,
            hub,
            StreamRegistry(sources, hub, self.health),
            Catalog(sources),
            Backfill(broker, records, Archive(archive, self.health), max_age_us),
            KeyRing(settings.api_keys),
            Places(),
            Proxies(settings.trusted_proxies),
            Door(
                settings.ws_max_connections_per_address,
                # However many places there are, clients with a key find half of them.
                min(settings.ws_max_keyless, max(1, settings.ws_max_connections // 2)),
                settings.ws_max_keyless_per_address,
            ),
            KeyGuesses(settings.key_failures_per_minute, time.monotonic),
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The gateway's own tasks live while the block runs."""
        if self.settings.environment == "production":
            plain = sum(not key.startswith("sha256:") for key in self.settings.api_keys)
            if plain:
                # They are held as digests here; whoever reads the environment reads the keys.
                log.warning("api_keys_not_hashed", count=plain, expected="sha256:<hex>")
        async with asyncio.TaskGroup() as group:
            self._group = group
            streams = self.parts.streams
            streams.start(group)
            tasks = [
                group.create_task(streams.run(), name="sweep"),
                group.create_task(self._beat(), name="heartbeat"),
                group.create_task(self._watch_freshness(), name="freshness"),
                group.create_task(self._open_and_watch_broker(), name="broker"),
            ]
            try:
                yield
            finally:
                for session in list(self.sessions):
                    session.leave()
                for task in tasks:
                    task.cancel()
                streams.stop()
                await self.broker.aclose()

    # ------------------------------------------------------------------ connections

    def joined(self, session: Session) -> None:
        """It is served from now on, until it says that it left."""
        self.sessions[session] = None
        self.metrics.connections.inc()

    def left(self, session: Session) -> None:
        if session in self.sessions:
            self.metrics.connections.dec()
            del self.sessions[session]
            if not self.sessions:
                self._emptied.set()

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        assert self._group is not None, "a session begins while the gateway runs"
        return self._group.create_task(work, name=name)

    # ------------------------------------------------------------------ clock

    async def _beat(self) -> None:
        interval = self.settings.ws_heartbeat_ms / 1000
        while True:
            sessions = list(self.sessions)
            size = max(1, math.ceil(len(sessions) / _SLICES))
            for slice_ in range(_SLICES):
                await asyncio.sleep(interval / _SLICES)
                now = time.monotonic()
                for session in sessions[slice_ * size : (slice_ + 1) * size]:
                    if session.closing:
                        continue
                    try:
                        self._beat_one(session, now)
                    except Exception:  # whatever it was: it costs this client only
                        log.exception("session_failed", session=session.id)
                        session.failed()
            self.metrics.queue_bytes.set(sum(session.queued for session in self.sessions))

    def _beat_one(self, session: Session, now: float) -> None:
        session.heartbeat(time.time_ns() // 1000)
        if (overdue := session.overdue(now)) is not None:
            problem, reason = overdue
            if reason == "slow_closed":
                self.metrics.slow.labels("closed").inc()
            session.tell_problem(problem)
            session.close(CloseCode.POLICY, reason)

    async def _watch_freshness(self) -> None:
        before = 0
        while True:
            await asyncio.sleep(_FRESHNESS_CHECK_S)
            streams = self.parts.streams
            ages = streams.judge()
            stale = sum(feed.condition.age.stale for feed in streams.feeds.values())
            self.metrics.freshness(ages, stale)
            if (before == 0) != (stale == 0):
                oldest_s = max(ages.values(), default=0) / 1e6
                log.warning("freshness_changed", stale_streams=stale, oldest_s=round(oldest_s, 1))
            before = stale
            if stale:
                reason = f"{stale} of {len(streams.feeds)} streams are older than they may be"
                self.health.degraded("freshness", reason)
            else:
                self.health.restored("freshness")

    async def _open_and_watch_broker(self) -> None:
        await self.broker.open()
        while not self.open:
            try:
                await self.broker.ensure(self._specs)
            except BrokerUnavailable as error:
                self.health.failed("broker", str(error))
                await asyncio.sleep(_BROKER_CHECK_S)
            else:
                self.open = True
                self.ready.set()
                if not self.draining:
                    self.health.passed("serving")
        while True:
            try:
                await self.broker.ping()
            except BrokerError as error:
                self.health.failed("broker", str(error))
            else:
                self.health.passed("broker")
            self.health.tell_hazards("broker", self.broker.hazards())
            await asyncio.sleep(_BROKER_CHECK_S)

    # ------------------------------------------------------------------ going away

    async def drain(self) -> None:
        """Tell every client where to go on, then close them one after another."""
        self.draining = True
        self.health.failed("serving", "draining")
        seconds = self.settings.drain_seconds
        deadline_ms = int(seconds * 1000)
        sessions = list(self.sessions)
        log.info("draining", clients=len(sessions), seconds=seconds)
        for session in sessions:
            session.tell(
                {
                    "type": "drain",
                    "deadline_ms": deadline_ms,
                    "reconnect_after_ms": _RECONNECT_MS,
                    "resume": session.subscriptions.resume(),
                },
                control=True,
            )
        random.shuffle(sessions)
        begun = time.monotonic()
        # A first moment lets clients read the message; then an even spread of closes.
        grace = min(1.0, seconds / 4)
        await self._until_gone(begun + grace)
        for index, session in enumerate(sessions):
            due = begun + grace + (seconds - grace) * 0.75 * index / max(1, len(sessions))
            await self._until_gone(due)
            if session in self.sessions:
                session.close(CloseCode.RESTART, "service_restart")
        await self._until_gone(begun + seconds)

    async def _until_gone(self, deadline: float) -> None:
        """Return at the deadline, or as soon as nobody is connected."""
        if not self.sessions:
            return
        self._emptied.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                await self._emptied.wait()
