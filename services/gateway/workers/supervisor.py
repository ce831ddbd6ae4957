"""Several processes on one port (`WEB_CONCURRENCY`): started, watched, asked and ended by this one.

Each worker is a gateway of its own, with its own tail, window and clients. They share nothing but
the port, which the kernel gives new connections of to each in turn (SO_REUSEPORT). This process
serves no clients: it holds the port, so that it stays theirs while one is started again, and speaks
for all of them to whoever asks for readiness and metrics.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException

from services.common.errors import PlatformError
from services.common.observability.health import Health
from services.common.observability.metrics import HealthCollector, Together
from services.common.resilience import delay_s
from services.common.runtime import Stop, serve_http
from services.common.settings import child_environment
from services.gateway.http.pages import docs_routes, has_admin_port
from services.gateway.metrics import FleetMetrics
from services.gateway.settings import GatewaySettings
from services.gateway.workers.channel import ChannelDown, WorkerChannel
from services.gateway.workers.health_http import (
    METRICS_PATH,
    MergedMetrics,
    Reply,
    failing_checks,
    merged_degradations,
    routes,
)

# What a worker is asked for, beside its report.
OPENAPI = "openapi"

log = structlog.get_logger(__name__)

# One that lived for so long had settled: what it ended of was not its start.
_SETTLED_S = 60.0
_FIRST_S, _MOST_S = 0.5, 30.0
# Beyond the drain, for what is left to be closed.
_MARGIN_S = 10.0


@contextmanager
def reserved_port(host: str, port: int) -> Iterator[int]:
    """Hold a port that workers share, without listening on it; yields its number.

    Raises:
        OSError: somebody else has it.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as alone:
        # Without SO_REUSEPORT: another gateway on this port has to be noticed, not joined.
        alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        alone.bind((host, port))
        port = int(alone.getsockname()[1])
    with socket.socket(family) as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind((host, port))
        yield port


@dataclass
class WorkerProcess:
    """One process of several, started again whenever it ends by itself."""

    number: int
    port: int
    answer: Callable[[Any], Any]
    metrics: FleetMetrics
    channel: WorkerChannel | None = None
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        """None while it is not running."""
        return None if self._process is None else self._process.pid

    async def run(self) -> None:
        """Keep it running until `stop`, and end with it."""
        failures = 0
        while not self._stopping.is_set():
            begun = time.monotonic()
            try:
                how = _how(await self._live())
            except OSError as error:
                # No process, memory or descriptor to be had now: the others serve meanwhile.
                how = f"not started: {error.strerror}"
            if self._stopping.is_set():
                return
            lived = time.monotonic() - begun
            failures = 1 if lived >= _SETTLED_S else failures + 1
            wait = delay_s(failures - 1, first_s=_FIRST_S, cap_s=_MOST_S)
            self.metrics.restarts.inc()
            log.error(
                "worker_ended",
                worker=self.number,
                how=how,
                lived_s=round(lived, 1),
                again_in_s=round(wait, 2),
            )
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._stopping.wait()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Let it drain and end, or (SIGKILL) end it; it is not started again."""
        self._stopping.set()
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)

    async def _live(self) -> int:
        """Start it; its exit status."""
        ours, its = socket.socketpair()
        arguments = ("-m", "services.gateway", "worker", str(its.fileno()), str(self.number))
        try:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *arguments,
                env=child_environment({"HTTP_PORT": str(self.port)}),
                pass_fds=(its.fileno(),),
                # Keys on a terminal reach this process alone, which passes on what they mean.
                start_new_session=True,
            )
        except OSError:
            ours.close()
            raise
        finally:
            its.close()
        log.info("worker_started", worker=self.number, pid=self._process.pid)
        self.channel = WorkerChannel(ours, self.answer)
        if self._stopping.is_set():
            self._process.terminate()
        try:
            async with asyncio.TaskGroup() as group:
                answering = group.create_task(self.channel.run(), name=f"channel:{self.number}")
                status = await self._process.wait()
                answering.cancel()
            return status
        finally:
            self.channel = None
            if self._process.returncode is None:
                self._process.kill()
            self._process = None


class Supervisor:
    """`run` it as the service's main."""

    def __init__(self, settings: GatewaySettings, metrics: FleetMetrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._workers: list[WorkerProcess] = []
        self.health = Health("gateway", *map(_check, range(settings.web_concurrency)))
        self._own = Together(metrics.registry, HealthCollector(self.health))

    async def run(self, stop: Stop) -> None:
        """Serve until told to stop, then drain all and end with the last of them.

        Raises:
            PlatformError: the port is taken.
        """
        settings = self._settings
        async with AsyncExitStack() as stack:
            try:
                port = stack.enter_context(reserved_port(settings.http_host, settings.http_port))
            except OSError as error:
                raise PlatformError(f"port {settings.http_port}: {error.strerror}") from error
            numbers = range(settings.web_concurrency)
            self._workers = [
                WorkerProcess(number, port, self.answer, self._metrics) for number in numbers
            ]
            if has_admin_port(settings):
                described = docs_routes(self._openapi)
                admin = Starlette(routes=[*routes(self.answer, self.info), *described])
                await stack.enter_async_context(
                    serve_http(admin, settings.http_host, settings.admin_port or 0)
                )
            async with asyncio.TaskGroup() as group:
                running = [group.create_task(one.run()) for one in self._workers]
                await stop.wait()
                log.info("fleet_stopping", workers=len(running), reason=stop.reason)
                for worker in self._workers:
                    worker.stop()
                _done, late = await asyncio.wait(
                    running, timeout=settings.drain_seconds + _MARGIN_S
                )
                for worker in self._workers if late else ():
                    log.error("worker_killed", worker=worker.number, pid=worker.pid)
                    worker.stop(signal.SIGKILL)

    # ------------------------------------------------------------------ what is asked

    async def answer(self, asked: Any) -> Any:
        """What a worker, or whoever came to the admin port, is told: a `Reply`'s fields."""
        path, accept = asked
        reports = await self._look()
        if path == METRICS_PATH:
            told = {str(n): report["families"] for n, report in reports.items()}
            return tuple(Reply.of_metrics(MergedMetrics(told, self._own), accept))
        found = [report["report"] for report in reports.values()]
        if path == "/startupz":
            pending = self.health.pending
            body = {"started": not pending, "service": self.health.service, "pending": pending}
            return tuple(Reply.of_json(body, good=not pending))
        body = {
            **self.health.report(),
            "degraded": merged_degradations(found),
            "workers": self._pids(),
        }
        return tuple(Reply.of_json(body, good=self.health.ready))

    async def _openapi(self) -> dict[str, Any]:
        """The document of the workers' API, which is the same for all."""
        for worker in self._workers:
            with suppress(ChannelDown):
                if worker.channel is not None:
                    document: dict[str, Any] = await worker.channel.ask(OPENAPI)
                    return document
        raise HTTPException(503, "no worker answers")

    async def _look(self) -> dict[int, Any]:
        """Ask all workers; what those say that answer. Their checks are up to date then."""
        async with asyncio.TaskGroup() as group:
            asked = [(worker, group.create_task(_report_of(worker))) for worker in self._workers]
        found: dict[int, Any] = {}
        for worker, answering in asked:
            answer = answering.result()
            reason = answer if isinstance(answer, str) else failing_checks(answer["report"])
            if reason is None:
                self.health.passed(_check(worker.number))
            else:
                self.health.failed(_check(worker.number), reason)
            if not isinstance(answer, str):
                found[worker.number] = answer
        return found

    def _pids(self) -> dict[str, int | None]:
        return {str(worker.number): worker.pid for worker in self._workers}

    def info(self) -> dict[str, Any]:
        return {"service": "gateway", "started": self.health.started, "workers": self._pids()}


async def _report_of(worker: WorkerProcess) -> Any:
    """What it says, or why it says nothing."""
    if worker.channel is None:
        return "it is being started"
    try:
        return await worker.channel.ask("report")
    except ChannelDown as error:
        return str(error)


def _check(number: int) -> str:
    return f"worker-{number}"


def _how(status: int) -> str:
    return f"exit status {status}" if status >= 0 else signal.Signals(-status).name
