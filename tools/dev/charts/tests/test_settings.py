"""What the charts put into an environment is what the services read."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme

from services.common.settings import load
from tools.dev.charts.kubernetes import Pod, pods
from tools.dev.charts.testing import environment
from tools.dev.charts.workspace import PROFILES, SERVICES, Object
from tools.doctor.checks import SETTINGS

pytestmark = pytest.mark.charts


def service_pods(objects: list[Object]) -> list[tuple[str, Pod]]:
    return [
        (pod.labels["app.kubernetes.io/name"], pod)
        for pod in pods(objects)
        if pod.owner.startswith(("Deployment/", "Rollout/"))
    ]


@pytest.mark.parametrize("name", PROFILES)
def test_each_service_starts_with_the_environment_that_the_charts_give_it(
    profile: Callable[[str], list[Object]],
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    # What the Secret would hold where it is mounted.
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.crt")
    objects = profile(name)
    found = service_pods(objects)
    assert {service for service, _ in found} == {*SERVICES}
    for service, pod in found:
        with monkeypatch.context() as patch:
            for variable in list(os.environ):
                patch.delenv(variable)
            for variable, value in environment(objects, pod).items():
                patch.setenv(variable, value.replace("/etc/nats-tls", str(tmp_path)))
            settings = load(SETTINGS[service])
        assert settings.model_dump()["admin_port"] == 9090


@pytest.mark.parametrize("name", PROFILES)
def test_every_variable_of_every_pod_is_a_setting_of_some_service(
    profile: Callable[[str], list[Object]], name: str
) -> None:
    known = {field.upper() for s in SERVICES for field in SETTINGS[s].model_fields}
    objects = profile(name)
    for _, pod in service_pods(objects):
        assert environment(objects, pod).keys() <= known, pod.owner


def test_the_logs_have_no_more_replicas_than_there_are_servers(
    profile: Callable[[str], list[Object]],
) -> None:
    for name in PROFILES:
        objects = profile(name)
        servers = [item for item in objects if item["kind"] == "StatefulSet"]
        for _, pod in service_pods(objects):
            replicas = int(environment(objects, pod)["JS_REPLICAS"])
            assert not servers or replicas <= servers[0]["spec"]["replicas"]
