"""The pods of the staging profile run as processes, with the environment the charts give them."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect

from tools.dev.charts.kubernetes import Pod, pods
from tools.dev.charts.testing import environment, hook_containers, outcome
from tools.dev.charts.workspace import UMBRELLA, Helm, Object, Workspace
from tools.embedded import AwsServer, NatsServer, free_port
from tools.simulator.exchange import SimulatedExchange
from tools.stack.process import Process

pytestmark = [pytest.mark.charts, pytest.mark.e2e]
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> list[Object]:
    with Helm() as helm:
        workspace = Workspace.copy(helm, tmp_path_factory.mktemp("charts"))
        workspace.build()
        # Of several processes, since that is the gateway with more parts.
        several = {"gateway.settings.WEB_CONCURRENCY": "2"}
        return workspace.render(UMBRELLA, *workspace.profile("staging"), settings=several)


def by_owner(objects: list[Object], kind: str) -> dict[str, Pod]:
    return {pod.owner.partition("/")[2]: pod for pod in pods(objects) if pod.owner.startswith(kind)}


@asynccontextmanager
async def guarded_nats(
    objects: list[Object], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[NatsServer]:
    """One server instead of three, with the users and permissions that the chart gives it."""
    (pod,) = by_owner(objects, "StatefulSet/").values()
    with monkeypatch.context() as patch:
        for name, value in environment(objects, pod).items():
            patch.setenv(name, value)
        (config,) = (i["data"]["nats.conf"] for i in objects if "nats.conf" in i.get("data", {}))
        (block,) = re.findall(r"(?ms)^authorization \{.*?^\}", config)
        async with NatsServer(extra_config=block) as server:
            yield server


async def receive_ticks(port: int, count: int) -> None:
    """Be a client until so many ticks came."""
    async with connect(f"ws://127.0.0.1:{port}/ws", max_size=None, proxy=None) as client:
        await client.send(json.dumps({"type": "subscribe", "product": "BTC-USD"}))
        async with asyncio.timeout(30):
            while count:
                count -= json.loads(await client.recv())["type"] == "incr"


async def test_each_pod_starts_answers_its_probes_and_leaves(
    objects: list[Object],
    aws_server: AwsServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = by_owner(objects, "Deployment/")
    assert environment(objects, found["market-data-gateway"])["WEB_CONCURRENCY"] == "2"
    http_port = free_port()
    async with SimulatedExchange() as exchange, guarded_nats(objects, monkeypatch) as server:
        # Where the others are is all that differs from a cluster.
        here = {
            **aws_server.environment,
            "NATS_URLS": server.url,
            "JS_REPLICAS": "1",
            "HTTP_PORT": str(http_port),
            "COINBASE_WS_PRIMARY": exchange.ws_url,
            "COINBASE_WS_FALLBACK": exchange.ws_url,
            "COINBASE_REST_URL": exchange.rest_url,
        }

        def process(name: str, pod: Pod) -> Process:
            given = environment(objects, pod)
            assert given["HTTP_PORT"] == "8080"
            return Process(
                name,
                f"services.{pod.labels['app.kubernetes.io/name']}",
                port=free_port(),
                log_dir=tmp_path,
                ready_path=pod.containers[0]["readinessProbe"]["httpGet"]["path"],
                environment=lambda port: given | here | {"ADMIN_PORT": str(port)},
            )

        running = {name: process(name, pod) for name, pod in found.items()}
        try:
            async with asyncio.TaskGroup() as group:
                for one in running.values():
                    group.create_task(one.start())
            async with httpx.AsyncClient(trust_env=False) as client:
                for name, one in running.items():
                    for probe in PROBES:
                        path = found[name].containers[0][probe]["httpGet"]["path"]
                        answer = await client.get(one.url + path)
                        assert answer.status_code == httpx.codes.OK, (name, probe, answer.text)
            await receive_ticks(http_port, 5)
            assert "violation" not in server.log_file.read_text().lower()
            for name, one in running.items():
                chart = found[name].labels["app.kubernetes.io/name"]
                tests = hook_containers(objects, chart)
                status, output = await outcome(tests["ready"], ADMIN=f"127.0.0.1:{one.port}")
                assert status == 0, output
                if "clients" in tests:
                    where = f"127.0.0.1:{http_port}"
                    status, output = await outcome(tests["clients"], CLIENTS=where)
                    assert status == 0, output
        finally:
            for one in running.values():
                await one.stop()
    assert {name: await one.wait() for name, one in running.items()} == dict.fromkeys(found, 0)
