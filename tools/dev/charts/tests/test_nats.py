"""The NATS chart against the real server."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import SecretStr

from services.common.settings import CommonSettings
from services.common.stream.nats.broker import NatsBroker
from services.common.stream.specs import log_specs
from tools.dev.charts.kubernetes import pods
from tools.dev.charts.testing import SECRETS, environment
from tools.dev.charts.workspace import ROOT, Object, Workspace
from tools.embedded.nats import MAX_PAYLOAD, NatsServer, nats_binary

pytestmark = pytest.mark.charts
# What a generator of passwords may give, and what the server would read otherwise unquoted.
PASSWORDS = ["1e5", "p#ss word", "$PATH", "{x: [1]}", "2026-11-20", "0xdeadbeef00", "tr;ue//'=:,"]


def config_of(objects: list[Object]) -> str:
    (config,) = (item["data"]["nats.conf"] for item in objects if item["kind"] == "ConfigMap")
    return str(config)


def stateful(objects: list[Object]) -> Object:
    (found,) = (item for item in objects if item["kind"] == "StatefulSet")
    return found


@pytest.mark.parametrize("replicas", ["1", "3"])
@pytest.mark.parametrize("auth", ["", "auth"])
def test_the_server_accepts_the_rendered_configuration(
    workspace: Workspace, tmp_path: Path, replicas: str, auth: str
) -> None:
    objects = workspace.render("nats", settings={"replicas": replicas, "auth.existingSecret": auth})
    config = config_of(objects)
    assert f"max_payload: {MAX_PAYLOAD}\n" in config
    assert re.search(r"sync_interval: 10s\n", config), "the server's own default is two minutes"
    assert ("authorization" in config) == bool(auth)
    file = tmp_path / "nats.conf"
    file.write_text(config)
    done = subprocess.run(
        [nats_binary(), "-t", "-c", str(file)],
        env={**os.environ, "POD_NAME": "nats-0", "QUOTED_USER": '"u"', "QUOTED_PASSWORD": '"p"'},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


_UNITS = {"MB": 1024**2, "GB": 1024**3, "Mi": 1024**2, "Gi": 1024**3}


def _bytes(text: str) -> int:
    return int(text[:-2]) * _UNITS[text[-2:]]


def _yaml(path: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / path).read_text())
    return found


def _logs(settings: dict[str, Any]) -> int:
    """What the logs of these settings take at most, in one server, bytes."""
    bounds = {name.lower(): value for name, value in settings.items() if name.startswith("JS_")}
    specs = log_specs(CommonSettings.model_validate(bounds))
    assert all(spec.max_bytes for spec in specs)
    return sum(spec.max_bytes for spec in specs)


def test_the_bounds_of_all_logs_fit_what_jetstream_may_use_and_that_fits_the_volume() -> None:
    """The server sets the bounds aside, and refuses a stream for which there is no room."""
    chart = _yaml("helm/nats/values.yaml")["jetstream"]
    small = [_yaml("deploy/kind/values.yaml"), _yaml("charts/market-data-fanout/values-dev.yaml")]
    production = _yaml("charts/market-data-fanout/values-production.yaml")["global"]["settings"]
    eks = _yaml("deploy/eks/nats-values.yaml")["config"]["jetstream"]
    compose = re.search(r"max_file_store: (\w+)", (ROOT / "deploy/nats/nats.conf").read_text())
    assert compose is not None
    for settings, limit, volume in (
        ({}, chart["maxFileStore"], chart["storageSize"]),
        *(
            (
                values["global"]["settings"],
                values["nats"]["jetstream"]["maxFileStore"],
                values["nats"]["jetstream"]["storageSize"],
            )
            for values in small
        ),
        (production, eks["merge"]["max_file_store"], eks["fileStore"]["pvc"]["size"]),
        ({}, compose[1], compose[1]),
    ):
        assert _logs(settings) <= _bytes(limit) <= _bytes(volume)


def test_every_server_is_a_route_of_the_cluster_by_the_name_its_service_gives_it(
    workspace: Workspace,
) -> None:
    objects = workspace.render("nats", settings={"replicas": "3"}, release="md")
    config = config_of(objects)
    found = stateful(objects)
    name, service = found["metadata"]["name"], found["spec"]["serviceName"]
    servers = [f"{name}-{ordinal}.{service}" for ordinal in range(3)]
    for server in servers:
        assert f'"nats://{server}:6222"' in config
    assert service in {i["metadata"]["name"] for i in objects if i["kind"] == "Service"}
    (test,) = (item for item in objects if item["kind"] == "Pod")
    (variable,) = test["spec"]["containers"][0]["env"]
    assert variable["value"].split() == [f"{server}:8222" for server in servers]


def test_a_server_leaves_as_a_lame_duck_and_gets_the_time_for_it(workspace: Workspace) -> None:
    objects = workspace.render("nats", settings={"lameDuckSeconds": "45"})
    config = config_of(objects)
    spec = stateful(objects)["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    command = container["lifecycle"]["preStop"]["exec"]["command"]
    (pid_file,) = re.findall(r'pid_file: "(.*)"', config)
    assert command == ["nats-server", f"-sl=ldm={pid_file}"]
    assert 'lame_duck_duration: "45s"' in config
    assert spec["terminationGracePeriodSeconds"] > 45
    assert any(pid_file.startswith(m["mountPath"]) for m in container["volumeMounts"])


@asynccontextmanager
async def guarded(
    workspace: Workspace, password: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[str]:
    """A server with the chart's own authorization, as a pod with this password starts it."""
    objects = workspace.render("nats", settings={"auth.existingSecret": "auth", "replicas": "1"})
    (block,) = re.findall(r"(?ms)^authorization \{.*?^\}", config_of(objects))
    monkeypatch.setitem(SECRETS, "auth", {"NATS_USER": "md", "NATS_PASSWORD": password})
    (pod,) = (pod for pod in pods(objects) if pod.owner.startswith("StatefulSet/"))
    for name, value in environment(objects, pod).items():
        monkeypatch.setenv(name, value)
    async with NatsServer(extra_config=block) as server:
        yield server.url


def server_of(url: str) -> tuple[str, int]:
    host, _, port = url.removeprefix("nats://").partition(":")
    return host, int(port)


async def answer_to(server: tuple[str, int], identity: dict[str, str]) -> str:
    """What the server says to a client that introduces itself so."""
    reader, writer = await asyncio.open_connection(*server)
    try:
        await reader.readline()
        writer.write(f"CONNECT {json.dumps(identity)}\r\nPING\r\n".encode())
        return (await reader.readline()).decode()
    finally:
        writer.close()


@pytest.mark.parametrize("password", PASSWORDS)
async def test_who_has_the_secret_gets_in_and_nobody_else(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, password: str
) -> None:
    async with guarded(workspace, password, monkeypatch) as url:
        async with NatsBroker([url], user="md", password=SecretStr(password)) as broker:
            await broker.ping()
        for wrong in ({}, {"user": "md", "pass": f"{password}x"}):
            assert "Authorization Violation" in await answer_to(server_of(url), wrong)


USERS = {
    f"auth.users.{user}": f"market-data-nats-{user}"
    for user in ("ingestor", "normalizer", "snapshotter", "gateway", "operator")
}


@pytest.fixture
async def users_server(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[NatsServer]:
    """A server with the chart's users and their permissions."""
    objects = workspace.render("nats", settings={**USERS, "replicas": "1"})
    (block,) = re.findall(r"(?ms)^authorization \{.*?^\}", config_of(objects))
    (pod,) = (pod for pod in pods(objects) if pod.owner.startswith("StatefulSet/"))
    for name, value in environment(objects, pod).items():
        monkeypatch.setenv(name, value)
    async with NatsServer(extra_config=block) as server:
        yield server


@pytest.mark.parametrize(
    ("user", "subject", "allowed"),
    [
        ("ingestor", "market.raw.coinbase.trades.BTC-USD", True),
        ("ingestor", "market.tick.0.coinbase.trades.BTC-USD", False),
        ("normalizer", "market.tick.0.coinbase.trades.BTC-USD", True),
        ("normalizer", "market.raw.coinbase.trades.BTC-USD", False),
        ("snapshotter", "market.tick.0.coinbase.trades.BTC-USD", False),
        ("snapshotter", "market.raw.coinbase.trades.BTC-USD", False),
        ("gateway", "market.tick.0.coinbase.trades.BTC-USD", False),
        ("gateway", "$JS.API.STREAM.DELETE.MARKET_RAW", False),
        ("normalizer", "$JS.API.STREAM.PURGE.MARKET_RAW", False),
        ("operator", "market.raw.coinbase.trades.BTC-USD", True),
        ("operator", "elsewhere", False),
    ],
)
async def test_a_service_writes_what_it_makes_and_nothing_else(
    users_server: NatsServer, user: str, subject: str, allowed: bool
) -> None:
    host, port = server_of(users_server.url)
    secret = SECRETS[f"market-data-nats-{user}"]
    identity = {"user": secret["NATS_USER"], "pass": secret["NATS_PASSWORD"], "verbose": True}
    reader, writer = await asyncio.open_connection(host, port)
    try:
        await reader.readline()
        writer.write(f"CONNECT {json.dumps(identity)}\r\n".encode())
        assert await reader.readline() == b"+OK\r\n"
        writer.write(f"PUB {subject} 1\r\nx\r\nPING\r\n".encode())
        answers = []
        while (line := await reader.readline()) not in (b"PONG\r\n", b""):
            answers.append(line)
        assert any(b"Permissions Violation" in line for line in answers) is not allowed
    finally:
        writer.close()


def test_the_document_shows_the_permissions_that_the_chart_gives(workspace: Workspace) -> None:
    document = (ROOT / "docs" / "operations" / "nats.md").read_text()
    files = sorted((workspace.chart("nats") / "permissions").glob("*.conf"))
    assert [file.stem for file in files] == sorted(name.rpartition(".")[2] for name in USERS)
    for file in files:
        shown = re.search(rf"```text\n# {file.stem}\n(.*?)```", document, re.DOTALL)
        assert shown is not None, file.stem
        assert shown[1] == file.read_text()


def test_the_exporter_is_beside_each_server_and_asked_by_its_own_port(
    workspace: Workspace,
) -> None:
    settings = {"metrics.exporter.enabled": "true", "metrics.serviceMonitor.enabled": "true"}
    objects = workspace.render("nats", settings=settings)
    (exporter,) = (
        container
        for container in stateful(objects)["spec"]["template"]["spec"]["containers"]
        if container["name"] == "exporter"
    )
    assert exporter["args"][-1] == "http://localhost:8222/"
    assert "-jsz=all" in exporter["args"]
    (monitor,) = (item for item in objects if item["kind"] == "ServiceMonitor")
    assert monitor["spec"]["endpoints"][0]["port"] == exporter["ports"][0]["name"]
    (policy,) = (item for item in objects if item["kind"] == "NetworkPolicy")
    open_to_monitoring = next(
        rule["ports"]
        for rule in policy["spec"]["ingress"]
        if "namespaceSelector" in rule["from"][0]
    )
    assert {"port": "metrics"} in open_to_monitoring
