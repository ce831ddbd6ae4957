"""`helm test`: the programs in the test pods, run against servers on loopback."""

from __future__ import annotations

import shutil
from http import HTTPStatus

import pytest
import websockets
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request, Response

from services.common.observability.health import Health, health_routes
from services.common.runtime import serve_http
from tools.dev.charts.testing import hook_containers, outcome
from tools.dev.charts.workspace import CHARTS, SERVICES, UMBRELLA, Object, Workspace
from tools.embedded import NatsServer, free_port

pytestmark = pytest.mark.charts


def containers(workspace: Workspace, chart: str) -> dict[str, Object]:
    return hook_containers(workspace.render(chart), chart)


@pytest.mark.parametrize("chart", CHARTS)
def test_every_chart_has_one(workspace: Workspace, chart: str) -> None:
    expected = {"nats": {"healthy"}, "gateway": {"ready", "clients"}}
    assert containers(workspace, chart).keys() == expected.get(chart, {"ready"})


def test_their_logs_can_be_read_afterwards(workspace: Workspace) -> None:
    """`helm test --logs` asks for the log of a pod, not of a container, when all are done."""
    hooks = [
        item
        for item in workspace.render(UMBRELLA)
        if "helm.sh/hook" in item["metadata"].get("annotations", {})
    ]
    assert len(hooks) == len(CHARTS) + 1
    for hook in hooks:
        policy = hook["metadata"]["annotations"]["helm.sh/hook-delete-policy"]
        assert policy == "before-hook-creation", hook["metadata"]["name"]
        assert len(hook["spec"]["containers"]) == 1, hook["metadata"]["name"]


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
