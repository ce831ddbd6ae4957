"""Running a service: one owner of signals, one parent for all tasks, a designed stop.

`run_service` gives the main coroutine a `Stop`; SIGTERM or SIGINT sets it, and the service then
drains in data-flow order and returns. A second signal cancels everything. `serve_http` runs uvicorn
as one task under the service's TaskGroup, without letting it touch signals.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator
from typing import Any

import structlog
import uvicorn
import uvloop

from services.common.errors import PlatformError
from services.common.observability.telemetry import configure_logging, configure_tracing
from services.common.resilience import Backoff
from services.common.settings import CommonSettings

log = structlog.get_logger(__name__)


class Stop:
    """Says that the service should end. Set once; `reason` names who asked."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.reason = ""

    def request(self, reason: str) -> None:
        """Ask the service to end; later requests change nothing."""
        if not self._event.is_set():
            self.reason = reason
            self._event.set()

    @property
    def requested(self) -> bool:
        return self._event.is_set()

    async def wait(self) -> None:
        await self._event.wait()

    async def allows(self, work: Coroutine[Any, Any, None]) -> bool:
        """Whether `work` came to its end before a request, which otherwise cancels it."""
        async with asyncio.TaskGroup() as group:
            working = group.create_task(work)
            stopping = group.create_task(self.wait())
            await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
            working.cancel()
            stopping.cancel()
        return not self.requested


def run_service(
    name: str,
    settings: CommonSettings,
    main: Callable[[Stop], Awaitable[None]],
    *,
    patient: bool = False,
) -> int:
    """Run `main` on uvloop until it returns; the process's exit status is the answer.

    A `patient` one takes further signals for the first again, since several who look after it may
    each send theirs: it ends by its own deadline, or by SIGKILL.

    0 after a clean stop, 1 when the service ended by an error, which has then been logged.
    """
    configure_logging(name, settings.log_level, settings.log_format)
    tracing = configure_tracing(
        name, settings.otel_exporter_otlp_endpoint, settings.otel_traces_sampler_arg
    )
    tune_collector()
    try:
        return uvloop.run(_supervise(main, patient=patient))
    finally:
        if tracing is not None:
            tracing.shutdown()


async def patiently[T, E: Exception](
    call: Callable[[], Awaitable[T]],
    unavailable: type[E] | tuple[type[E], ...],
    tell: Callable[[E], None],
    pauses: Backoff | None = None,
) -> T:
    """Call until it does not raise `unavailable`, with growing pauses; cancel to give up.

    `tell` is told of each failure.
    """
    pauses = pauses or Backoff(0.1, 5.0)
    while True:
        try:
            return await call()
        except unavailable as error:
            tell(error)
            await asyncio.sleep(pauses.next_delay())


def tune_collector() -> None:
    """Collect cycles rarely: what is alive stays alive, and what a message makes dies young.

    With Python's own thresholds the collector took a fifth of the normalizer's time and doubled
    the cost of a WebSocket handshake (docs/performance.md).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 50)


async def _supervise(main: Callable[[Stop], Awaitable[None]], *, patient: bool) -> int:
    stop = Stop()
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()

    def on_signal(number: signal.Signals) -> None:
        if stop.requested and task is not None and not patient:
            log.warning("stop_forced", signal=number.name)
            task.cancel()
        stop.request(number.name)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    log.info("service_started")
    failures: list[BaseException] = []
    try:
        try:
            await main(stop)
        except* PlatformError as group:
            failures = list(flatten(group))
    except asyncio.CancelledError:
        return 1
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
    for error in failures:
        log.error("service_failed", error=type(error).__name__, reason=str(error))
    log.info("service_stopped", reason=stop.reason, failed=bool(failures))
    return 1 if failures else 0


def flatten(group: BaseExceptionGroup[Any]) -> Iterator[BaseException]:
    """The leaves of an exception group, in order."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from flatten(error)
        else:
            yield error


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()
        self.servers: list[asyncio.Server] = []

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().serve(sockets)
        finally:
            # A cancelled uvicorn leaves its listener and connections open, and uvloop then waits
            # for them for ever when the loop is closed: a crashed service would never end.
            for server in self.servers:
                server.close()
            for connection in self.server_state.connections:
                if (transport := getattr(connection, "transport", None)) is not None:
                    transport.abort()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets)
        except SystemExit as error:
            # uvicorn has logged why; whether that ends the process is the service's to say.
            raise PlatformError("the HTTP application failed to start") from error
        self.up.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # The service owns the signals; uvicorn would end the process behind its back.
        yield


@contextlib.asynccontextmanager
async def serve_http(
    app: Any,
    host: str,
    port: int,
    *,
    socket_options: Iterable[tuple[int, int, int]] = (),
    **options: Any,
) -> AsyncIterator[int]:
    """Serve an ASGI app while the block runs; yields the bound port (useful with port 0).

    Leaving the block closes the listener and gives open requests 3 s to finish. `socket_options`
    are set on the listener before it is bound; on Linux its connections have them too.

    Raises:
        OSError: the address cannot be bound.
        PlatformError: the application's own startup failed.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        for level, name, value in socket_options:
            listener.setsockopt(level, name, value)
        listener.bind((host, port))
        listener.listen(4096)
        listener.setblocking(False)
        bound = int(listener.getsockname()[1])
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=options.pop("timeout_graceful_shutdown", 3),
            **options,
        )
        server = _Server(config)
        async with asyncio.TaskGroup() as group:
            group.create_task(server.serve(sockets=[listener]), name=f"http:{bound}")
            await server.up.wait()
            log.info("http_listening", host=host, port=bound)
            try:
                yield bound
            finally:
                server.should_exit = True
    finally:
        listener.close()
