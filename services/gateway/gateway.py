"""The gateway as a whole: its shared parts, its connections, its clock, its way of going away."""

from __future__ import annotations

import asyncio
import json
import math
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import structlog
from starlette.datastructures import Headers
from starlette.websockets import WebSocket, WebSocketDisconnect

from services.common.errors import BrokerError, BrokerUnavailable
from services.common.stores.ports import ArchiveReader, CheckpointReader, LatestReader
from services.common.stream import Broker, LogSpec
from services.gateway.archive import Archive
from services.gateway.auth import EVERYONE, KeyRing, Places, Seat, offered_key
from services.gateway.backfill import Backfill
from services.gateway.catalog import Catalog
from services.gateway.core import Core
from services.gateway.feed import Sources
from services.gateway.health import GatewayHealth
from services.gateway.hub import Hub
from services.gateway.metrics import METRICS
from services.gateway.protocol import (
    BROKER_UNAVAILABLE,
    CONNECTION_QUOTA,
    DRAINING,
    INTERNAL,
    ORIGIN_DENIED,
    SUBPROTOCOL,
    Problem,
)
from services.gateway.session import Session, connections_taken
from services.gateway.settings import GatewaySettings
from services.gateway.stores import Stores
from services.gateway.tail import Tails
from services.gateway.wsproto import EXTENSION, AsgiLink, GatewayProtocol, Link

log = structlog.get_logger(__name__)

# The heartbeat's work is spread over this many turns of one heartbeat.
_SLICES = 20
_BROKER_CHECK_S = 2.0
# Most clients come back at once to another gateway; the spread keeps that one from being overrun.
_RECONNECT_MS = (100, 3000)


class Gateway:
    """Enter `running` for as long as the service lives; give `serve` every WebSocket.

    The broker is opened in there, and closed at its end. Until it answers, handshakes get 503.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        broker: Broker,
        specs: Sequence[LogSpec],
        latest: LatestReader | None = None,
        checkpoints: CheckpointReader | None = None,
        archive: ArchiveReader | None = None,
    ) -> None:
        self.settings = settings
        self.broker = broker
        self.health = GatewayHealth()
        self.ready = asyncio.Event()
        self.sessions: dict[Session, None] = {}
        self.draining = False
        self._group: asyncio.TaskGroup | None = None
        self._emptied = asyncio.Event()
        self._specs = specs
        self._open = False
        loop = asyncio.get_running_loop()
        hub = Hub(
            loop.call_soon,
            lambda when, call: loop.call_later(max(0.0, when - time.monotonic()), call),
            time.monotonic,
            lambda: time.time_ns() // 1000,
            settings.product_max_msgs_per_sec,
            settings.flush_window_ms / 1000,
            most=min(128 * 1024, settings.ws_queue_bytes),
        )
        stores = Stores(latest, checkpoints, self.health)
        sources = Sources(
            broker,
            settings.shard_count,
            stores,
            settings.window_bytes,
        )
        tails = Tails(
            sources,
            hub,
            total_bytes=settings.window_total_bytes,
            linger_s=settings.stream_linger_s,
        )
        max_age_us = int(settings.backfill_max_minutes * 60e6)
        self.core = Core(
            settings,
            hub,
            tails,
            Catalog(broker, stores, settings.shard_count),
            Backfill(broker, Archive(archive, self.health), max_age_us),
            KeyRing(settings.api_keys),
            Places(),
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
            tails = self.core.tails
            tails.start(group)
            tasks = [
                group.create_task(tails.run(), name="sweep"),
                group.create_task(self._beat(), name="heartbeat"),
                group.create_task(self._open_and_watch_broker(), name="broker"),
            ]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                tails.stop()
                await self.broker.aclose()

    # ------------------------------------------------------------------ connections

    async def serve(self, websocket: WebSocket) -> None:
        """One WebSocket, from its handshake to its end."""
        seat = Seat(self.core.places)
        try:
            await self._serve_in(seat, websocket)
        finally:
            seat.leave()

    async def _serve_in(self, seat: Seat, websocket: WebSocket) -> None:
        link = websocket.scope.get("extensions", {}).get(EXTENSION)
        key = offered_key(websocket.headers, websocket.scope["query_string"].decode("latin-1"))
        if isinstance(link, GatewayProtocol):
            key = key or link.api_key
        if (problem := self._refusal(websocket.headers) or self._seated(seat, key)) is not None:
            await _reject(websocket, *problem)
            return
        offered = websocket.scope.get("subprotocols", [])
        await websocket.accept(SUBPROTOCOL if SUBPROTOCOL in offered else None)
        if isinstance(link, GatewayProtocol):
            await self._serve(websocket, link, seat, key)
            return
        plain = AsgiLink(websocket)
        async with asyncio.TaskGroup() as group:
            writing = group.create_task(_write(plain), name="asgi-writer")
            try:
                await self._serve(websocket, plain, seat, key)
            finally:
                writing.cancel()

    async def _serve(self, websocket: WebSocket, link: Link, seat: Seat, key: str | None) -> None:
        session = Session(self.core, websocket, link, seat)
        self.sessions[session] = None
        METRICS.connections.inc()
        try:
            await session.run(key_refused=key is not None and seat.grant is None)
        except Exception:
            # Whatever it was, this client is told, it is not silent, and the others go on.
            log.exception("session_failed", session=session.id)
            session.tell_problem(Problem(INTERNAL, "the gateway failed; connect again"))
            await session.close(1011, "internal")
        finally:
            METRICS.connections.dec()
            del self.sessions[session]
            if not self.sessions:
                self._emptied.set()

    def _refusal(self, headers: Headers) -> tuple[int, Problem] | None:
        """Why a handshake is answered by an HTTP error instead of an upgrade."""
        origin = headers.get("origin")
        if self.draining:
            return 503, Problem(DRAINING, "this gateway is going away; connect again")
        if not self._open:
            return 503, Problem(BROKER_UNAVAILABLE, "the log was not reached yet")
        if len(self.sessions) >= self.settings.ws_max_connections:
            message = f"{len(self.sessions)} connections are open, no more are taken"
            return 503, Problem(CONNECTION_QUOTA, message, retry_after_ms=1000)
        if origin and self.settings.allowed_origins and origin not in self.settings.allowed_origins:
            return 403, Problem(ORIGIN_DENIED, "this origin is not allowed")
        return None

    def _seated(self, seat: Seat, key: str | None) -> tuple[int, Problem] | None:
        """Give the connection its place by the key it came with, if that is one."""
        keys = self.core.keys
        grant = EVERYONE if keys.open else keys.grant(key) if key is not None else None
        if grant is None or seat.take(grant):
            return None
        return 503, connections_taken(grant)

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
                    session.heartbeat(time.time_ns() // 1000)
                    if (overdue := session.overdue(now)) is not None:
                        problem, reason = overdue
                        if reason == "slow_closed":
                            METRICS.slow.labels("closed").inc()
                        session.tell_problem(problem)
                        self._close(session, 1008, reason)
            METRICS.queue_bytes.set(sum(session.queued for session in self.sessions))

    async def _open_and_watch_broker(self) -> None:
        await self.broker.open()
        while not self._open:
            try:
                await self.broker.ensure(self._specs)
            except BrokerUnavailable as error:
                self.health.failed("broker", str(error))
                await asyncio.sleep(_BROKER_CHECK_S)
            else:
                self._open = True
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
                    "resume": session.interests.resume(),
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
                self._close(session, 1012, "service_restart")
        await self._until_gone(begun + seconds)

    def _close(self, session: Session, code: int, reason: str) -> None:
        # Each in its own task: one that takes nothing must not hold up the others.
        if self._group is not None:
            self._group.create_task(session.close(code, reason), name="close")

    async def _until_gone(self, deadline: float) -> None:
        """Return at the deadline, or as soon as nobody is connected."""
        if not self.sessions:
            return
        self._emptied.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                await self._emptied.wait()


async def _write(link: AsgiLink) -> None:
    try:
        await link.run()
    except (WebSocketDisconnect, RuntimeError, OSError):
        # RuntimeError is Starlette's word for sending after the end.
        link.abort()


async def _reject(websocket: WebSocket, status: int, problem: Problem) -> None:
    METRICS.errors.labels(str(problem.code.code)).inc()
    body = json.dumps({"type": "error", **problem.body()}).encode()
    if "websocket.http.response" in websocket.scope.get("extensions", {}):
        headers = [(b"content-type", b"application/json")]
        await websocket.send(
            {"type": "websocket.http.response.start", "status": status, "headers": headers}
        )
        await websocket.send({"type": "websocket.http.response.body", "body": body})
    else:
        await websocket.close(1013 if status == 503 else 1008, problem.code.name)
