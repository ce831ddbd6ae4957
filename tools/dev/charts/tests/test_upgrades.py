"""An upgrade changes what it is for: no immutable field, no pod that has nothing to do with it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from tools.dev.charts.workspace import PROFILES, SERVICES, UMBRELLA, Object, Workspace

pytestmark = pytest.mark.charts
type Profile = Callable[[str], list[Object]]
WORKLOADS = ("Deployment", "StatefulSet", "Rollout")
# What people change from one release to the next.
CHANGES = {
    "global.imageTag": "9.9.9",
    "global.settings.LOG_LEVEL": "WARNING",
    "gateway.podLabels.team": "feeds",
    "gateway.podAnnotations.reviewed": "yes",
    "gateway.drain.marginSeconds": "20",
    "gateway.topologySpread.whenUnsatisfiable": "DoNotSchedule",
    "ingestor.startupSeconds": "120",
    "normalizer.extraEnv[0].name": "LOG_LEVEL",
    "normalizer.extraEnv[0].value": "DEBUG",
    "snapshotter.resources.limits.memory": "1Gi",
    "nats.lameDuckSeconds": "60",
    "nats.image.tag": "2.16.0-alpine",
    "nats.metrics.exporter.enabled": "true",
}
# By kind, what the API refuses to change.
IMMUTABLE = {
    "Deployment": ("selector",),
    "Rollout": ("selector",),
    "StatefulSet": ("selector", "serviceName", "podManagementPolicy", "volumeClaimTemplates"),
}


@pytest.fixture(scope="module")
def newer(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The charts one version on."""
    root = tmp_path_factory.mktemp("newer")
    copy = Workspace.copy(workspace.helm, root)
    for lock in root.glob("*/*/Chart.lock"):
        lock.unlink()
    for file in root.glob("*/*/Chart.yaml"):
        file.write_text(re.sub(r"(?m)^( *version): 0\.1\.0$", r"\1: 0.2.0", file.read_text()))
    copy.build()
    return copy


def workloads(objects: Iterable[Object]) -> dict[tuple[str, str], Object]:
    return {
        (item["kind"], item["metadata"]["name"]): item
        for item in objects
        if item["kind"] in WORKLOADS
    }


def templates(objects: Iterable[Object]) -> dict[str, Any]:
    return {name: item["spec"]["template"] for (_, name), item in workloads(objects).items()}


@pytest.mark.parametrize("name", PROFILES)
def test_nothing_immutable_changes(profile: Profile, newer: Workspace, name: str) -> None:
    before = workloads(profile(name))
    after = workloads(newer.render(UMBRELLA, *newer.profile(name), settings=CHANGES))
    assert after.keys() == before.keys(), "what changes its name is deleted and made anew"
    for key, item in before.items():
        for field in IMMUTABLE[key[0]]:
            assert after[key]["spec"][field] == item["spec"][field], (key, field)
        assert after[key] != item, f"{key}: the changes were to reach every workload"


@pytest.mark.parametrize("name", PROFILES)
def test_selectors_hold_nothing_that_changes_with_a_version(profile: Profile, name: str) -> None:
    for item in workloads(profile(name)).values():
        assert item["spec"]["selector"]["matchLabels"].keys() <= {
            "app.kubernetes.io/name",
            "app.kubernetes.io/instance",
            "market-data-fanout/unit",
        }


@pytest.mark.parametrize(
    ("setting", "services"),
    [
        ("S3_BUCKET", {"snapshotter", "gateway"}),
        ("LOG_LEVEL", {*SERVICES}),
        ("nothing", set()),
    ],
)
def test_a_changed_setting_restarts_the_services_that_read_it_and_no_other(
    workspace: Workspace, profile: Profile, setting: str, services: set[str]
) -> None:
    before = templates(profile("values"))
    change = {} if setting == "nothing" else {f"global.settings.{setting}": "WARNING"}
    after = templates(workspace.render(UMBRELLA, settings=change))
    changed = {name.split("-")[2] for name in before if before[name] != after[name]}
    assert changed == services


def test_a_new_chart_version_with_the_same_image_restarts_nothing(
    profile: Profile, newer: Workspace
) -> None:
    objects = newer.render(UMBRELLA)
    assert {item["metadata"]["labels"].get("helm.sh/chart", "-0.2.0")[-6:] for item in objects} == {
        "-0.2.0"
    }
    assert templates(objects) == templates(profile("values"))
