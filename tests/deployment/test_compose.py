"""The compose stack, as far as it can be checked without an engine."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from websockets.asyncio.client import connect

from services.common.settings import load
from tools.dev.observability.dashboards import queries
from tools.dev.observability.rules import alerts
from tools.doctor.checks import SETTINGS
from tools.embedded import AwsServer, NatsServer, ValkeyServer, free_port
from tools.embedded.nats import MAX_PAYLOAD, nats_binary, nats_version
from tools.embedded.valkey import valkey_version
from tools.simulator.exchange import SimulatedExchange
from tools.stack.process import Process

ROOT = Path(__file__).resolve().parents[2]
OURS = ("ingestor", "normalizer", "snapshotter", "gateway")
ONE_SHOT = {"bucket"}
# Read by the AWS SDK itself.
SDK = {
    *("AWS_ENDPOINT_URL_DYNAMODB", "AWS_ENDPOINT_URL_S3"),
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
}


def resolve(node: Any) -> Any:
    """`${NAME:-default}` as compose reads it where no variable is set."""
    if isinstance(node, dict):
        return {key: resolve(value) for key, value in node.items()}
    if isinstance(node, list):
        return [resolve(item) for item in node]
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", node) if isinstance(node, str) else node


STACK: dict[str, Any] = resolve(yaml.safe_load((ROOT / "docker-compose.yaml").read_text()))
SERVICES: dict[str, Any] = STACK["services"]
every_service = pytest.mark.parametrize("name", SERVICES)


def test_the_stack_holds_the_whole_platform_and_what_else_can_be_asked_for() -> None:
    others = {"nats", "dynamodb", "minio", "bucket", "prometheus", "grafana", "simulator"}
    profiles = {name: service.get("profiles") for name, service in SERVICES.items()}
    assert {name for name, asked in profiles.items() if asked is None} == {*OURS, *others}
    asked_for = {name: asked for name, asked in profiles.items() if asked}
    assert asked_for == {"redis": ["redis"], "jaeger": ["observability"]}


TRACED = "OTEL_EXPORTER_OTLP_ENDPOINT=http://jaeger:4318"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "docker compose"),
        (("BROKER_KIND=redis",), "docker compose --profile redis"),
        (("TRACES=1",), f"{TRACED} docker compose --profile observability"),
    ],
    ids=["the base", "redis", "traces"],
)
def test_make_starts_the_profile_that_the_services_are_told_to_use(
    arguments: tuple[str, ...], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What `make test` hands down would make this make one of several levels that say so.
    for variable in ("BROKER_KIND", "TRACES", "MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "MAKELEVEL"):
        monkeypatch.delenv(variable, raising=False)
    done = subprocess.run(
        ["make", "--dry-run", "compose-up", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert " ".join(done.stdout.splitlines()[-1].split()) == f"{expected} up -d --build --wait"


def test_nobody_waits_for_a_broker_whose_profile_is_off() -> None:
    for name, service in SERVICES.items():
        for target, wait in service.get("depends_on", {}).items():
            if SERVICES[target].get("profiles", service.get("profiles")) != service.get("profiles"):
                assert wait["required"] is False, f"{name} waits for {target}"


@every_service
def test_every_container_is_locked_down(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service


@every_service
def test_images_that_are_not_built_here_are_pinned_in_one_place(name: str) -> None:
    service = SERVICES[name]
    if "build" in service:
        assert (ROOT / service["build"]["dockerfile"]).is_file()
    else:
        assert service["image"] in STACK["x-images"].values()
        # A whole version, such as v3.5.0 or RELEASE.2025-04-22T22-12-26Z, never a moving tag.
        assert re.search(r":\S*\d+[.-]\d+[.-]\d+\S*$", service["image"])


@every_service
def test_whoever_is_waited_for_can_say_that_it_is_ready(name: str) -> None:
    for target, wait in SERVICES[name].get("depends_on", {}).items():
        if target in ONE_SHOT:
            assert wait["condition"] == "service_completed_successfully"
        else:
            assert wait["condition"] == "service_healthy"
            other = SERVICES[target]
            dockerfile = ROOT / other.get("build", {}).get("dockerfile", "none")
            assert "healthcheck" in other or "HEALTHCHECK" in dockerfile.read_text()


@every_service
def test_ports_are_open_to_this_machine_only_and_mounts_exist(name: str) -> None:
    for port in SERVICES[name].get("ports", []):
        assert port.startswith("127.0.0.1:")
    for volume in SERVICES[name].get("volumes", []):
        source, _, rest = volume.partition(":")
        if source.startswith("./"):
            assert (ROOT / source).exists()
            assert rest.endswith(":ro")
        else:
            assert source in STACK["volumes"]


@pytest.mark.parametrize("name", OURS)
def test_each_service_starts_with_the_environment_it_gets(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = SERVICES[name]["environment"]
    cls = SETTINGS[name]
    assert environment.keys() - SDK <= {field.upper() for field in cls.model_fields}
    for variable in list(os.environ):
        monkeypatch.delenv(variable)
    for variable, value in environment.items():
        monkeypatch.setenv(variable, str(value))
    settings = load(cls)
    assert settings.admin_port == 9090
    assert settings.nats_urls == ("nats://nats:4222",)


def test_the_stack_and_the_chart_run_the_same_broker() -> None:
    image = yaml.safe_load((ROOT / "helm/nats/values.yaml").read_text())["image"]
    assert STACK["x-images"]["nats"] == f"{image['repository']}:{image['tag']}"


@pytest.mark.parametrize(
    ("image", "version"),
    [("nats", nats_version), ("redis", valkey_version)],
    ids=["nats", "valkey"],
)
def test_the_stack_runs_the_brokers_that_the_tests_run_on(
    image: str, version: Callable[[], str]
) -> None:
    found = re.search(r"v=?(\d+\.\d+)\.", version())
    assert found is not None
    assert re.search(rf":{found[1]}\.\d+-alpine$", STACK["x-images"][image])


# Seconds that a service gives itself to stop, by its settings.
STOPPING: dict[str, Callable[[Any], float]] = {
    "ingestor": lambda settings: settings.drain_timeout_ms / 1000,
    "normalizer": lambda settings: 0,
    "snapshotter": lambda settings: settings.stop_grace_s,
    "gateway": lambda settings: settings.drain_seconds,
}


@pytest.mark.parametrize("name", OURS)
def test_a_service_has_time_to_drain_before_it_is_killed(name: str) -> None:
    grace = float(SERVICES[name]["stop_grace_period"].removesuffix("s"))
    defaults = SETTINGS[name].model_construct()
    assert grace >= 2 * STOPPING[name](defaults) + 10


def test_grafana_is_given_its_dashboards_and_the_datasources_that_they_name() -> None:
    provisioning = ROOT / "deploy/grafana/provisioning"
    (provider,) = yaml.safe_load((provisioning / "dashboards/files.yaml").read_text())["providers"]
    mounts = dict(volume.split(":")[:2][::-1] for volume in SERVICES["grafana"]["volumes"])
    assert mounts[provider["options"]["path"]] == "./deploy/grafana/dashboards"
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (ROOT / "deploy/grafana/dashboards" / home.rpartition("/")[2]).is_file()
    sources = yaml.safe_load((provisioning / "datasources/datasources.yaml").read_text())
    by_uid = {source["uid"]: source for source in sources["datasources"]}
    for source in by_uid.values():
        host = re.fullmatch(r"http://(\w+):(\d+)", source["url"])
        assert host is not None
        assert host[1] in SERVICES
        assert source["url"].removeprefix("http://" + host[1]) in str(SERVICES[host[1]])
    (link,) = by_uid["prometheus"]["jsonData"]["exemplarTraceIdDestinations"]
    assert link == {"name": "trace_id", "datasourceUid": by_uid["jaeger"]["uid"]}


def test_the_exchange_lists_what_the_ingestor_asks_for() -> None:
    products = {
        name: SERVICES[name]["environment"]["COINBASE_PRODUCTS"]
        for name in ("ingestor", "simulator")
    }
    assert products["ingestor"] == products["simulator"]


def test_the_server_accepts_its_configuration_and_a_book_snapshot_fits_through_it() -> None:
    file = ROOT / "deploy/nats/nats.conf"
    subprocess.run([nats_binary(), "-t", "-c", str(file)], check=True, capture_output=True)
    assert f"max_payload: {MAX_PAYLOAD}\n" in file.read_text()


def test_prometheus_scrapes_every_service() -> None:
    config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    targets = [
        target
        for job in config["scrape_configs"]
        for group in job["static_configs"]
        for target in group["targets"]
    ]
    assert targets == [f"{name}:9090" for name in OURS]


# ---------------------------------------------------------------- the services themselves


def health_path(name: str) -> str:
    """What the stack's health check of a service asks for, on the admin port."""
    found = re.search(r"http://127\.0\.0\.1:9090(/\w+)", SERVICES[name]["healthcheck"]["test"][-1])
    assert found is not None
    return found[1]


def container(name: str, http_port: int, log_dir: Path, addresses: dict[str, str]) -> Process:
    """A service as the stack runs it, but for its peers' addresses and its two ports."""
    given = {key: str(value) for key, value in SERVICES[name]["environment"].items()}
    here = {key: value for key, value in addresses.items() if key in given}
    return Process(
        name,
        f"services.{name}",
        port=free_port(),
        log_dir=log_dir,
        ready_path=health_path(name),
        environment=lambda port: (
            given | here | {"HTTP_PORT": str(http_port), "ADMIN_PORT": str(port)}
        ),
    )


@asynccontextmanager
async def running(
    broker: NatsServer | ValkeyServer, aws: AwsServer, log_dir: Path
) -> AsyncIterator[tuple[dict[str, Process], int]]:
    """The four services on a simulated exchange, ready; and the gateway's port for clients."""
    http_port = free_port()
    async with SimulatedExchange() as exchange:
        addresses = {
            "BROKER_KIND": "redis" if isinstance(broker, ValkeyServer) else "nats",
            "NATS_URLS": broker.url,
            "REDIS_URL": broker.url,
            "COINBASE_PRODUCTS": "BTC-USD",
            "COINBASE_WS_PRIMARY": exchange.ws_url,
            "COINBASE_WS_FALLBACK": exchange.ws_url,
            "COINBASE_REST_URL": exchange.rest_url,
            "AWS_ENDPOINT_URL_DYNAMODB": aws.url,
            "AWS_ENDPOINT_URL_S3": aws.url,
        }
        services = {name: container(name, http_port, log_dir, addresses) for name in OURS}
        try:
            async with asyncio.TaskGroup() as group:
                for service in services.values():
                    # Returns once /readyz on the admin port says 200.
                    group.create_task(service.start())
            yield services, http_port
        finally:
            for service in services.values():
                await service.stop()


async def receive_ticks(port: int, count: int) -> None:
    """Be a client until so many ticks came."""
    async with connect(f"ws://127.0.0.1:{port}/ws", max_size=None, proxy=None) as client:
        await client.send(json.dumps({"type": "subscribe", "product": "BTC-USD"}))
        async with asyncio.timeout(30):
            while count:
                count -= json.loads(await client.recv())["type"] == "incr"


@pytest.mark.e2e
@pytest.mark.parametrize("broker", [NatsServer, ValkeyServer], ids=["nats", "redis"])
async def test_each_service_answers_its_probes_on_the_admin_port_and_stops_cleanly(
    broker: type[NatsServer | ValkeyServer], aws_server: AwsServer, tmp_path: Path
) -> None:
    async with (
        broker() as server,
        running(server, aws_server, tmp_path) as (services, http_port),
        httpx.AsyncClient(trust_env=False) as client,
    ):
        for service in services.values():
            for path in ("/healthz", "/metrics", "/info"):
                answer = await client.get(service.url + path)
                assert answer.status_code == httpx.codes.OK, (service.name, path)
        answer = await client.get(f"http://127.0.0.1:{http_port}/v1/products")
        assert answer.status_code == httpx.codes.OK
    statuses = {name: await service.wait() for name, service in services.items()}
    assert statuses == dict.fromkeys(OURS, 0)


# What Prometheus adds to every sample in a cluster.
TARGET_LABELS = {"namespace", "job", "instance", "pod", ""}


def exposed(text: str) -> dict[str, set[str]]:
    """Names that a query may use, with the labels of their samples so far."""
    suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for suffix in suffixes.get(family.type, ("",)):
            name = family.name + suffix
            labels = [set(sample.labels) for sample in family.samples if sample.name == name]
            found[name] = set().union(*labels)
    return found


def faults(expression: str, metrics: dict[str, set[str]]) -> list[str]:
    """Metrics and labels that a query asks for and nothing exposes."""
    wrong = []
    grouped = {
        label.strip()
        for group in re.findall(r"by \(([^)]*)\)", expression)
        for label in group.split(",")
    }
    for name, matchers in re.findall(r"\b(md_\w+)(?:\{([^}]*)\})?", expression):
        if name not in metrics:
            wrong.append(f"{name} is not exposed")
        elif metrics[name]:
            asked = grouped | set(re.findall(r"(\w+)!?=", matchers))
            wrong += [f"{name} has no label {x}" for x in asked - metrics[name] - TARGET_LABELS]
    return wrong


def test_the_query_check_sees_a_wrong_metric_and_a_wrong_label() -> None:
    metrics = {"md_a_total": {"venue"}, "md_b": set()}
    assert faults('sum by (venue) (md_a_total{venue="x"}) + md_b', metrics) == []
    assert faults("sum by (shard) (md_a_total) + md_a", metrics) == [
        "md_a_total has no label shard",
        "md_a is not exposed",
    ]


@pytest.mark.e2e
async def test_every_panel_and_every_alert_asks_for_what_the_services_expose(
    nats_server: NatsServer, aws_server: AwsServer, tmp_path: Path
) -> None:
    metrics: dict[str, set[str]] = {}
    async with running(nats_server, aws_server, tmp_path) as (services, http_port):
        await receive_ticks(http_port, 50)
        async with httpx.AsyncClient(trust_env=False) as client:
            for service in services.values():
                found = exposed((await client.get(service.url + "/metrics")).text)
                for name, labels in found.items():
                    metrics[name] = metrics.get(name, set()) | labels
    assert metrics["md_ws_sent_total"] >= {"venue", "channel"}
    asked = {rule["alert"]: rule["expr"] for name in OURS for rule in alerts(name)} | queries()
    wrong = {title: faults(expression, metrics) for title, expression in asked.items()}
    assert {title: found for title, found in wrong.items() if found} == {}
