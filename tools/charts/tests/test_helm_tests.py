"""`helm test`: the programs in the test pods, run against servers on loopback."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from http import HTTPStatus

import pytest
import websockets
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request, Response

from services.common.health import Health, health_routes
from services.common.runtime import serve_http
from tools.charts.workspace import CHARTS, SERVICES, Object, Workspace
from tools.embedded import NatsServer, free_port

pytestmark = pytest.mark.charts


def containers(workspace: Workspace, chart: str) -> dict[str, Object]:
    """The containers of the chart's test pod, by name."""
    objects = workspace.render(chart)
    (pod,) = (
        item
        for item in objects
        if item["metadata"].get("annotations", {}).get("helm.sh/hook") == "test"
    )
    return {container["name"]: container for container in pod["spec"]["containers"]}


async def outcome(container: Object, **variables: str) -> tuple[int, str]:
    """Exit status and output of the container's program, with other addresses."""
    assert variables.keys() == {item["name"] for item in container["env"]}
    program, *arguments = container["command"]
    process = await asyncio.create_subprocess_exec(
        sys.executable if program == "python" else program,
        *arguments,
        env={"PATH": os.environ["PATH"], **variables},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


@pytest.mark.parametrize("chart", CHARTS)
def test_every_chart_has_one(workspace: Workspace, chart: str) -> None:
    expected = {"nats": {"healthy"}, "gateway": {"ready", "clients"}}
    assert containers(workspace, chart).keys() == expected.get(chart, {"ready"})


@pytest.mark.parametrize("chart", SERVICES)
async def test_a_service_passes_when_it_is_ready_and_says_what_fails(
    workspace: Workspace, chart: str
) -> None:
    container = containers(workspace, chart)["ready"]
    health = Health(chart, "broker")
    app = Starlette(routes=health_routes(health, None, CollectorRegistry()))
    async with serve_http(app, "127.0.0.1", 0) as port:
        health.failed("broker", "no answer")
        status, output = await outcome(container, ADMIN=f"127.0.0.1:{port}")
        assert status == 1
        assert "no answer" in output
        assert "1 of 1 pods are not ready" in output
        health.passed("broker")
        status, output = await outcome(container, ADMIN=f"127.0.0.1:{port}")
        assert (status, '"ready":true' in output) == (0, True)
    status, output = await outcome(container, ADMIN=f"127.0.0.1:{port}")
    assert (status, "refused" in output) == (1, True)


async def test_a_gateway_passes_when_a_client_gets_its_upgrade(workspace: Workspace) -> None:
    container = containers(workspace, "gateway")["clients"]
    asked: list[str] = []
    draining = False

    def look(connection: ServerConnection, request: Request) -> Response | None:
        asked.append(request.path)
        return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, "draining") if draining else None

    async def serve(connection: ServerConnection) -> None:
        await connection.wait_closed()

    async with websockets.serve(serve, "127.0.0.1", 0, process_request=look) as server:
        (socket, *_) = server.sockets
        where = f"127.0.0.1:{socket.getsockname()[1]}"
        status, output = await outcome(container, CLIENTS=where)
        assert (status, " 101 " in output) == (0, True)
        draining = True
        status, output = await outcome(container, CLIENTS=where)
        assert (status, " 503 " in output) == (1, True)
    assert asked == ["/ws", "/ws"]


@pytest.mark.skipif(shutil.which("wget") is None, reason="wget is not installed")
async def test_nats_passes_when_every_server_is_healthy(workspace: Workspace) -> None:
    container = containers(workspace, "nats")["healthy"]
    port = free_port()
    healthy, nobody = f"127.0.0.1:{port}", f"127.0.0.1:{free_port()}"
    async with NatsServer(extra_config=f'http: "{healthy}"'):
        status, output = await outcome(container, SERVERS=f"{healthy} {healthy}")
        assert (status, output.count('"status":"ok"')) == (0, 2)
        status, output = await outcome(container, SERVERS=f"{healthy} {nobody}")
        assert status != 0
        assert nobody in output
