"""Starts, supervises and ends the processes of a whole platform on this machine."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from services.common.subjects import CHANNELS
from tools.embedded import (
    AwsServer,
    ChildProcess,
    EmbeddedServer,
    NatsServer,
    ValkeyServer,
    free_port,
    is_free,
)
from tools.stack.options import (
    DEFAULT_PRODUCTS,
    SERVICES,
    Capture,
    StackOptions,
    replay_speed,
    service_environment,
)
from tools.stack.process import Process

EXCHANGE = "exchange"
# Producers first: whatever is still on its way reaches the stages behind before these are ended.
STOP_ORDER = (*SERVICES, EXCHANGE)
_WATCH_INTERVAL = 0.1
_WHAT = {
    "nats": "JetStream: the logs",
    "valkey": "Redis Streams (Valkey): the logs",
    "aws": "DynamoDB and S3 APIs: latest rows, archive",
    EXCHANGE: "simulated Coinbase exchange",
    "ingestor": "feed in, gaps found and healed",
    "normalizer": "ticks, sharded and chained",
    "snapshotter": "latest rows and archive",
    "gateway": "WebSocket fan-out",
}


@dataclass(frozen=True)
class Started:
    """A component came up: what it is, where it is, and how long it took (seconds)."""

    name: str
    what: str
    where: str
    seconds: float


class PortTaken(Exception):
    """Somebody listens where the gateway was to: nothing was started."""

    def __init__(self, port: int) -> None:
        self.port = port
        super().__init__(f"port {port} is taken by another process (GATEWAY_PORT, --gateway-port)")


class Stack:
    """`async with Stack(options) as stack:` - everything is ready inside the block.

    Nothing outlives the block, nor this process, however it ends. `on_started` is told of each
    component as it becomes ready.
    """

    def __init__(
        self, options: StackOptions, on_started: Callable[[Started], None] | None = None
    ) -> None:
        if options.gateway_port is not None and not is_free("0.0.0.0", options.gateway_port):
            raise PortTaken(options.gateway_port)
        self.options = options
        self.run_dir = options.run_dir.absolute()
        self._on_started = on_started or (lambda _started: None)
        self._down: set[str] = set()
        self._server_dirs: list[Path] = []
        self.run_dir.mkdir(parents=True, exist_ok=True)

        self.capture: Capture | None = None
        if options.upstream == "replay":
            if options.capture is None:
                raise ValueError("a replay needs a capture")
            self.capture = Capture.scan(options.capture, options.truth)
        found = self.capture.products if self.capture is not None else DEFAULT_PRODUCTS
        self.products = options.products or found
        self.channels = self.capture.channels if self.capture is not None else CHANNELS

        self.broker: EmbeddedServer = (
            ValkeyServer(data_dir=self._server_dir("valkey"))
            if options.broker_kind == "redis"
            else NatsServer(data_dir=self._server_dir("nats"))
        )
        # Known before it starts, so that the services can be described now.
        self.broker.port = free_port()
        self.aws = AwsServer(port=free_port(), data_dir=self._server_dir("aws"))
        self.exchange = None if options.upstream == "coinbase" else self._exchange()
        self.services = {name: self._service(name) for name in SERVICES}
        # What the services need, and has to be there before them.
        self._below: list[ChildProcess] = [self.broker, self.aws]
        if self.exchange is not None:
            self._below.append(self.exchange)
        self.components = {each.name: each for each in (*self._below, *self.services.values())}

    def _server_dir(self, name: str) -> Path:
        path = self.run_dir / name
        self._server_dirs.append(path)
        return path

    def _exchange(self) -> Process:
        port = free_port()
        arguments = ["--port", str(port), "--products", ",".join(self.products)]
        if self.capture is not None:
            speed = replay_speed(self.options, self.capture)
            arguments += ["--capture", str(self.options.capture), "--speed", f"{speed:g}"]
            if self.options.truth is not None:
                arguments += ["--truth", str(self.options.truth)]
        else:
            arguments += ["--seed", str(self.options.seed)]
        if self.options.hold:
            arguments.append("--hold")
        return self._process(EXCHANGE, "tools.simulator", "/healthz", port, arguments)

    def _service(self, name: str) -> Process:
        given = self.options.gateway_port if name == "gateway" else None
        return self._process(name, f"services.{name}", "/readyz", given or free_port())

    def _process(
        self, name: str, module: str, ready_path: str, port: int, arguments: Sequence[str] = ()
    ) -> Process:
        return Process(
            name,
            module,
            port=port,
            log_dir=self.run_dir,
            ready_path=ready_path,
            arguments=arguments,
            environment=lambda port: service_environment(
                name,
                self.options,
                products=self.products,
                broker_url=self.broker.url,
                aws=self.aws.environment,
                exchange_port=self.exchange.port if self.exchange is not None else None,
                http_port=port,
            ),
        )

    # ------------------------------------------------------------------ where things are

    @property
    def gateway_url(self) -> str:
        """Of the WebSocket endpoint."""
        return f"ws://127.0.0.1:{self.services['gateway'].port}/ws"

    def url(self, name: str) -> str:
        """Address of a component."""
        return self.components[name].url

    # ------------------------------------------------------------------ life

    async def __aenter__(self) -> Self:
        try:
            await self._start_together(self._below)
            await self._start_together(list(self.services.values()))
        except BaseException:  # also when it is cancelled: no process may be left
            await self.close()
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def _start_together(self, components: Sequence[ChildProcess]) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for component in components:
                    group.create_task(self._start(component), name=f"start:{component.name}")
        except ExceptionGroup as failed:
            # The first one has the reason; the others were cancelled or fell with it.
            raise failed.exceptions[0] from failed

    async def _start(self, component: ChildProcess) -> None:
        began = time.monotonic()
        await component.start()
        self._down.discard(component.name)
        took = time.monotonic() - began
        self._on_started(Started(component.name, self._what(component.name), component.url, took))

    def _what(self, name: str) -> str:
        if name != EXCHANGE or self.capture is None:
            return _WHAT[name]
        speed = replay_speed(self.options, self.capture)
        return f"replay of {self.capture.seconds:.0f} s at {speed:.1f}x"

    async def supervise(self) -> None:
        """Run beside the work: never returns.

        Raises:
            ChildDied: a component ended that nobody had killed or stopped through this object.
        """
        while True:
            for name, component in self.components.items():
                if name not in self._down and not component.is_running():
                    raise component.died()
            await asyncio.sleep(_WATCH_INTERVAL)

    async def kill(self, name: str) -> None:
        """SIGKILL one component, as a crash would, and leave it down."""
        self._down.add(name)
        await self.components[name].kill()

    async def stop(self, name: str) -> None:
        """SIGTERM one component and leave it down."""
        self._down.add(name)
        await self.components[name].stop()

    async def restart(self, name: str) -> None:
        """Bring a component back on its port with its data; a running one is killed before.

        Raises:
            ChildDied: it ended at once.
            NotReady: it does not become ready.
        """
        await self.kill(name)
        await self._start(self.components[name])

    async def close(self) -> None:
        """End everything, in the direction the data flows; the logs stay in `run_dir`."""
        self._down.update(self.components)
        for name in STOP_ORDER:
            if name in self.components:
                await self.components[name].stop()
        await asyncio.gather(self.aws.stop(), self.broker.stop())
        for folder in self._server_dirs:
            _keep_only_logs(folder)


def _keep_only_logs(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.suffix != ".log":
            path.unlink(missing_ok=True)
