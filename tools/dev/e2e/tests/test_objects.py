"""What `make e2e-kind` applies: valid, restricted, and wired to what is there."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from services.common.settings import load as load_settings
from tools.dev.charts.__main__ import KUBERNETES
from tools.dev.charts.kubernetes import pods, validate, violations
from tools.dev.charts.workspace import SERVICES, UMBRELLA, Helm, Object, Workspace
from tools.dev.e2e.scenario import KIND, NAMESPACE, RELEASE, Load, tag
from tools.dev.images.image import IMAGES
from tools.doctor.checks import SETTINGS

pytestmark = pytest.mark.charts


def documents(name: str) -> list[Object]:
    return list(yaml.safe_load_all((KIND / name).read_text()))


BESIDE = [*documents("stand-ins.yaml"), *documents("load.yaml")]


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Object]]:
    """The umbrella as it is installed there."""
    with Helm() as helm:
        workspace = Workspace.copy(helm, tmp_path_factory.mktemp("charts"))
        workspace.build()
        yield workspace.render(UMBRELLA, KIND / "values.yaml", release=RELEASE, namespace=NAMESPACE)


@pytest.mark.parametrize("version", KUBERNETES)
def test_all_objects_are_valid(release: list[Object], version: str) -> None:
    assert validate([*release, *BESIDE], version).problems == []


def test_every_pod_is_allowed_in_a_restricted_namespace(release: list[Object]) -> None:
    found = {pod.owner: violations(pod) for pod in pods([*release, *BESIDE])}
    assert {owner: what for owner, what in found.items() if what} == {}


def test_every_image_of_ours_is_built_and_loaded(release: list[Object]) -> None:
    images = {
        container["image"]
        for pod in pods([*release, *BESIDE])
        for container in pod.containers
        if container["image"].startswith("market-data-fanout/")
    }
    assert images == {tag(image) for image in IMAGES}


def millicores(container: dict[str, Any]) -> int:
    asked = container["resources"]["requests"]["cpu"]
    return int(asked.removesuffix("m")) if asked.endswith("m") else 1000 * int(asked)


def test_two_cores_hold_everything_while_the_gateways_are_doubled(release: list[Object]) -> None:
    total = 0
    for item in [*release, *BESIDE]:
        if item["kind"] in ("Deployment", "StatefulSet", "Job"):
            containers = item["spec"]["template"]["spec"]["containers"]
            copies = item["spec"].get("replicas", 1)
            if item["kind"] == "Deployment" and item["metadata"]["name"].endswith("gateway"):
                copies *= 2
            total += copies * sum(map(millicores, containers))
    # The control plane of a kind node asks for 950.
    assert total + 950 <= 2000


def environments(objects: list[Object]) -> dict[str, dict[str, str]]:
    """The variables of each service's container."""
    maps = {o["metadata"]["name"]: o["data"] for o in objects if o["kind"] == "ConfigMap"}
    found = {}
    for pod in pods(objects):
        name = pod.labels.get("app.kubernetes.io/name", "")
        if name in SERVICES:
            (container,) = pod.containers
            sources = [maps[s["configMapRef"]["name"]] for s in container["envFrom"]]
            own = {e["name"]: e["value"] for e in container.get("env", []) if "value" in e}
            found[name] = {k: v for source in sources for k, v in source.items()} | own
    return found


def urls(variables: dict[str, str]) -> set[tuple[str, int]]:
    found = set()
    for value in variables.values():
        for part in re.findall(r"\w+://[^,\s]+", value):
            url = urlsplit(part)
            assert url.port is not None
            found.add((url.hostname or "", url.port))
    return found


def test_every_address_that_a_service_is_given_is_a_service_it_may_reach(
    release: list[Object],
) -> None:
    ports = {
        (item["metadata"]["name"], port["port"])
        for item in [*release, *BESIDE]
        if item["kind"] == "Service"
        for port in item["spec"]["ports"]
    }
    policies = {
        item["metadata"]["labels"]["app.kubernetes.io/name"]: item["spec"]["egress"]
        for item in release
        if item["kind"] == "NetworkPolicy"
    }
    for name, variables in environments(release).items():
        allowed = {p["port"] for rule in policies[name] for p in rule.get("ports", [])}
        used = {at for at in urls(variables) if at[0] not in ("localhost", "127.0.0.1")}
        assert used, name
        assert used <= ports, name
        assert {port for _, port in used} <= allowed, name
    (address,) = (a for a in Load().arguments if a.startswith("--url="))
    url = urlsplit(address.removeprefix("--url="))
    assert (url.hostname, url.port) in ports


def test_each_service_starts_with_the_environment_it_gets(
    release: list[Object], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = environments(release)
    assert found.keys() == {*SERVICES}
    for name, variables in found.items():
        with monkeypatch.context() as patch:
            for variable in list(os.environ):
                patch.delenv(variable)
            for variable, value in variables.items():
                patch.setenv(variable, value)
            load_settings(SETTINGS[name])


def test_the_exchange_has_the_products_that_are_asked_for(release: list[Object]) -> None:
    def variable(objects: list[Object], owner: str) -> str:
        (pod,) = (pod for pod in pods(objects) if pod.owner.startswith(owner))
        variables: list[dict[str, Any]] = pod.containers[0]["env"]
        (value,) = (v["value"] for v in variables if v["name"] == "COINBASE_PRODUCTS")
        return str(value)

    listed = variable(BESIDE, "Deployment/exchange")
    assert listed == variable(release, "Deployment/market-data-ingestor")
    assert listed == Load().products


def test_the_load_takes_the_arguments_it_is_given() -> None:
    from tools.loadtest.command import loadtest

    context = loadtest.make_context("loadtest", list(Load().arguments))
    assert context.params["clients"] == Load.clients
    assert context.params["duration"] == Load.seconds
