"""The compose stack, as far as it can be checked without an engine."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.common.settings import load
from tools.charts.schemas import settings_of
from tools.embedded.nats import MAX_PAYLOAD

ROOT = Path(__file__).resolve().parents[2]
OURS = ("ingestor", "normalizer", "snapshotter", "gateway")
ONE_SHOT = {"bucket"}
# Read by the AWS SDK itself.
SDK = {
    *("AWS_ENDPOINT_URL_DYNAMODB", "AWS_ENDPOINT_URL_S3"),
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
}


def resolve(text: str) -> str:
    """`${NAME:-default}` as compose reads it where no variable is set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


STACK: dict[str, Any] = yaml.safe_load(resolve((ROOT / "docker-compose.yaml").read_text()))
SERVICES: dict[str, Any] = STACK["services"]
every_service = pytest.mark.parametrize("name", SERVICES)


def test_the_stack_holds_the_whole_platform() -> None:
    others = {"nats", "dynamodb", "minio", "bucket", "prometheus", "grafana", "simulator"}
    assert SERVICES.keys() == {*OURS, *others}


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
        assert not service["image"].endswith(":latest")
        assert ":" in service["image"]


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
    cls = settings_of(name)
    assert environment.keys() - SDK <= {field.upper() for field in cls.model_fields}
    for variable in list(os.environ):
        monkeypatch.delenv(variable)
    for variable, value in environment.items():
        monkeypatch.setenv(variable, str(value))
    settings = load(cls)
    assert settings.admin_port == 9090
    assert settings.nats_urls == ("nats://nats:4222",)


@pytest.mark.parametrize("name", OURS)
def test_a_service_has_time_to_drain_before_it_is_killed(name: str) -> None:
    assert SERVICES[name]["stop_grace_period"] == "60s"


def test_the_exchange_lists_what_the_ingestor_asks_for() -> None:
    products = {
        name: SERVICES[name]["environment"]["COINBASE_PRODUCTS"]
        for name in ("ingestor", "simulator")
    }
    assert products["ingestor"] == products["simulator"]


def test_a_book_snapshot_fits_through_the_broker() -> None:
    assert f"max_payload: {MAX_PAYLOAD}\n" in (ROOT / "deploy/nats/nats.conf").read_text()


def test_prometheus_scrapes_every_service() -> None:
    config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    targets = [
        target
        for job in config["scrape_configs"]
        for group in job["static_configs"]
        for target in group["targets"]
    ]
    assert targets == [f"{name}:9090" for name in OURS]


def test_every_panel_asks_for_metrics_that_some_service_has() -> None:
    source = "\n".join(
        file.read_text() for file in (ROOT / "services").rglob("*.py") if "tests" not in file.parts
    )
    board = json.loads((ROOT / "deploy/grafana/dashboards/market-data.json").read_text())
    for panel in board["panels"]:
        for target in panel["targets"]:
            for metric in re.findall(r"\bmd_\w+", target["expr"]):
                assert re.search(
                    rf'"{metric.removesuffix("_bucket").removesuffix("_total")}', source
                ), metric
