"""Real processes get real signals."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette

from services.common.observability.health import Health, health_routes
from services.common.runtime import serve_http

PREAMBLE = """
import asyncio, sys
import structlog
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from services.common.errors import BrokerUnavailable, StoreUnavailable
from services.common.observability.health import Health, health_routes
from services.common.runtime import run_service, serve_http
from services.common.settings import CommonSettings
log = structlog.get_logger()
settings = CommonSettings(log_format="json")
"""

GRACEFUL = """
async def main(stop):
    log.info("up")
    await stop.wait()
    await asyncio.sleep(0)
    log.info("drained")
sys.exit(run_service("tester", settings, main))
"""

STUBBORN = """
async def main(stop):
    log.info("up")
    await stop.wait()
    log.info("stopping")
    try:
        await asyncio.Event().wait()
    finally:
        log.info("cleaned_up")
sys.exit(run_service("tester", settings, main))
"""

FAILING = """
async def main(stop):
    raise BrokerUnavailable("nats", "refused")
sys.exit(run_service("tester", settings, main))
"""

FAILING_TASKS = """
async def fail(error):
    raise error
async def main(stop):
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(fail(BrokerUnavailable("nats", "refused")))
        tasks.create_task(fail(StoreUnavailable("s3", "throttled")))
sys.exit(run_service("tester", settings, main))
"""

BROKEN = """
async def main(stop):
    raise KeyError("a programming error")
sys.exit(run_service("tester", settings, main))
"""

SERVING = """
async def main(stop):
    app = Starlette(routes=health_routes(Health("tester"), None, CollectorRegistry()))
    async with serve_http(app, "127.0.0.1", 0):
        await stop.wait()
sys.exit(run_service("tester", settings, main))
"""

FAILING_APP = """
import contextlib
@contextlib.asynccontextmanager
async def lifespan(app):
    raise ValueError("no database")
    yield
async def main(stop):
    async with serve_http(Starlette(lifespan=lifespan), "127.0.0.1", 0):
        await stop.wait()
sys.exit(run_service("tester", settings, main))
"""


class Program:
    """A running service whose log lines are read as they come."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []

    async def until(self, event: str) -> dict[str, Any]:
        assert self.process.stderr is not None
        async with asyncio.timeout(30):
            while line := await self.process.stderr.readline():
                if line.startswith(b"{"):
                    self.lines.append(json.loads(line))
                    if self.lines[-1]["event"] == event:
                        return self.lines[-1]
        raise AssertionError(f"{event} was never logged: {self.lines}")

    async def end(self) -> int:
        """Read what is left; the exit status."""
        assert self.process.stderr is not None
        async with asyncio.timeout(30):
            rest = await self.process.stderr.read()
            self.lines += [json.loads(r) for r in rest.splitlines() if r.startswith(b"{")]
            return await self.process.wait()

    @property
    def events(self) -> list[str]:
        return [line["event"] for line in self.lines]


@contextlib.asynccontextmanager
async def program(code: str) -> AsyncIterator[Program]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PREAMBLE + code, stderr=asyncio.subprocess.PIPE
    )
    try:
        yield Program(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_the_service_in_order_with_status_0(number: signal.Signals) -> None:
    async with program(GRACEFUL) as found:
        await found.until("up")
        found.process.send_signal(number)
        assert await found.end() == 0
        assert found.events == ["service_started", "up", "drained", "service_stopped"]
        assert found.lines[-1]["reason"] == number.name


async def test_a_second_signal_ends_a_service_that_does_not_stop() -> None:
    async with program(STUBBORN) as found:
        await found.until("up")
        found.process.terminate()
        await found.until("stopping")
        found.process.terminate()
        assert await found.end() == 1
        assert found.events[-2:] == ["stop_forced", "cleaned_up"]


async def test_an_error_of_the_platform_ends_the_service_with_status_1_and_a_line() -> None:
    async with program(FAILING) as found:
        assert await found.end() == 1
        failed = next(line for line in found.lines if line["event"] == "service_failed")
        assert failed["error"] == "BrokerUnavailable"
        assert failed["reason"] == "broker nats unavailable: refused"


async def test_errors_of_several_tasks_are_all_told() -> None:
    async with program(FAILING_TASKS) as found:
        assert await found.end() == 1
        errors = [line["error"] for line in found.lines if line["event"] == "service_failed"]
        assert errors == ["BrokerUnavailable", "StoreUnavailable"]


async def test_a_programming_error_is_not_made_to_look_like_an_outage() -> None:
    async with program(BROKEN) as found:
        assert await found.end() == 1
        assert "service_failed" not in found.events


async def test_port_0_serves_on_a_free_port_and_tells_which() -> None:
    async with program(SERVING) as found:
        port = (await found.until("http_listening"))["port"]
        async with httpx.AsyncClient() as client:
            answer = await client.get(f"http://127.0.0.1:{port}/healthz")
            assert answer.json() == {"alive": True, "service": "tester"}
        found.process.terminate()
        assert await found.end() == 0


async def test_a_cancelled_server_leaves_neither_port_nor_connection_open() -> None:
    bound: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def serve() -> None:
        app = Starlette(routes=health_routes(Health("tester"), None, CollectorRegistry()))
        async with serve_http(app, "127.0.0.1", 0) as port:
            bound.set_result(port)
            await asyncio.Event().wait()

    serving = asyncio.create_task(serve())
    port = await bound
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await reader.readline()).split()[1] == b"200"
    serving.cancel()
    await asyncio.wait((serving,))
    async with asyncio.timeout(30):
        with contextlib.suppress(ConnectionResetError):
            await reader.read()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)
    writer.close()


async def test_an_application_that_fails_to_start_ends_the_service() -> None:
    async with program(FAILING_APP) as found:
        assert await found.end() == 1
        assert "http_listening" not in found.events
        failed = next(line for line in found.lines if line["event"] == "service_failed")
        assert re.search("failed to start", failed["reason"])
