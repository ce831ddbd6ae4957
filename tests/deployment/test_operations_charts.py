"""The operations guide against the charts: its helm commands render, what it names is there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from string import Template
from typing import Any

import pytest
import yaml

from tests.deployment.guide import DOCUMENTS, VARIABLES, Command, of
from tools.dev.charts.kubernetes import pods, validate, violations
from tools.dev.charts.workspace import ROOT, UMBRELLA, Helm, Object, Workspace
from tools.doctor.checks import SETTINGS, check_settings

every = pytest.mark.parametrize


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    with Helm() as helm:
        built = Workspace.copy(helm, tmp_path_factory.mktemp("charts"))
        built.build()
        (built.root / "values.yaml").write_text(filled("deploy/eks/values.yaml"))
        yield built


def filled(path: str) -> str:
    """A file after `envsubst`; a variable that the guide does not set is an error."""
    return Template((ROOT / path).read_text()).substitute(VARIABLES)


@pytest.fixture(scope="module")
def installed(workspace: Workspace) -> list[Object]:
    """What the guide's install command makes."""
    (command,) = [
        each
        for each in of("helm")
        if "--install" in each.words and f"charts/{UMBRELLA}" in each.words
    ]
    return rendered(workspace, command)


def rendered(workspace: Workspace, command: Command) -> list[Object]:
    files = [workspace.root / name for name in command.values_of("--values")]
    settings = dict(pair.split("=", 1) for pair in command.values_of("--set"))
    return workspace.render(UMBRELLA, *files, settings=settings)


def test_helm_commands_with_our_charts_render(workspace: Workspace) -> None:
    ours = [command for command in of("helm") if f"charts/{UMBRELLA}" in command.words]
    assert {command.words[1] for command in ours} == {"upgrade", "dependency"}
    for command in ours:
        if command.words[1] == "upgrade":
            assert rendered(workspace, command)
    # What sentences add to it.
    text = "\n".join(document.read_text() for document in DOCUMENTS)
    production = workspace.profile("production")
    for file in set(re.findall(r"`--values (charts/\S+)`", text)):
        assert workspace.render(UMBRELLA, *production, workspace.root / file)
    for pair in set(re.findall(r"`--set (\S+)=\.\.\.`", text)):
        assert workspace.render(
            UMBRELLA,
            *production,
            settings={pair: f"arn:aws:iam::{VARIABLES['AWS_ACCOUNT_ID']}:role/x"},
        )


def test_values_that_the_pages_name_exist(workspace: Workspace) -> None:
    charts = {
        name: yaml.safe_load((workspace.chart(name) / "values.yaml").read_text())
        for name in (UMBRELLA, "gateway", "ingestor", "normalizer", "snapshotter", "nats")
    }
    text = "\n".join(document.read_text() for document in DOCUMENTS)
    names = re.findall(
        r"`((?:global|gateway|ingestor|normalizer|snapshotter|nats|drain|rollout|autoscaling|loadBalancer|networkPolicy|metrics|serviceAccount)\.[a-zA-Z.]+)`",
        text,
    )
    assert len(names) > 20
    for name in set(names) - {"nats.creds"}:
        first, *rest = name.split(".")
        candidates = [charts[first]] if first in charts else [charts[UMBRELLA], *charts.values()]
        path = rest if first in charts else [first, *rest]
        if first in ("nats", "gateway") and path == ["enabled"]:
            candidates, path = [charts[UMBRELLA]], [first, "enabled"]
        assert any(held(values, path) for values in candidates), name


def held(values: Any, path: list[str]) -> bool:
    for part in path:
        if part.isupper():
            return part in settings()
        if part and (not isinstance(values, dict) or part not in values):
            return False
        values = values[part] if part else values
    return True


@cache
def settings() -> set[str]:
    """The variables of all services."""
    files = (ROOT / "helm").glob("*/settings.txt")
    return {name for file in files for name in file.read_text().split()}


def test_variables_that_the_pages_name_exist() -> None:
    # Of tools and of the release, not of a service.
    others = {"DOCKER_BUILDKIT", "AWS_ROLE_ARN", "ADMIN_API_KEY"} | set(VARIABLES)
    for document in DOCUMENTS:
        names = set(re.findall(r"`([A-Z][A-Z0-9]*_[A-Z0-9_]+)(?:=[^`]*)?`", document.read_text()))
        unknown = names - settings() - others
        assert unknown <= {"GATEWAY_PORT", "GRAFANA_PORT", "PROMETHEUS_PORT", "JAEGER_PORT"}


@every("command", of("kubectl"), ids=str)
def test_objects_that_kubectl_names_are_made_by_the_guide(
    command: Command, installed: list[Object]
) -> None:
    made = {(item["kind"].lower(), item["metadata"]["name"]) for item in installed}
    made |= {("svc", name) for kind, name in made if kind == "service"}
    made |= {("job", "mdf-doctor"), ("job", "mdf-replay")}
    for word in command.words:
        if found := re.fullmatch(r"(deployment|statefulset|svc|job)/([\w-]+)", word):
            assert (found[1], found[2]) in made
    for selector in command.values_of("-l"):
        names = set(re.findall(r"[\w-]+", selector.partition("name")[2])) - {"in"}
        workloads = {
            item["metadata"]["labels"]["app.kubernetes.io/name"]
            for item in installed
            if item["kind"] == "Deployment"
        }
        assert names <= workloads
    if command.words[3:6] == ("create", "secret", "generic"):
        secrets = {
            source["secretRef"]["name"]
            for pod in pods(installed)
            for container in pod.containers
            for source in container.get("envFrom", [])
            if "secretRef" in source
        }
        job = yaml.safe_load(filled("deploy/kubernetes/mdf.yaml"))
        secrets |= {
            volume["secret"]["secretName"]
            for pod in [*pods(installed), *pods([job])]
            for volume in pod.spec.get("volumes", [])
            if "secret" in volume
        }
        assert command.words[6] in secrets


def test_pods_of_one_replica_leave_a_dead_node_soon(installed: list[Object]) -> None:
    for item in installed:
        if item["kind"] == "Deployment" and not item["metadata"]["name"].endswith("gateway"):
            tolerations = item["spec"]["template"]["spec"]["tolerations"]
            assert {each["tolerationSeconds"] for each in tolerations} == {20}


def test_the_job_for_mdf_runs_under_the_namespaces_rules(installed: list[Object]) -> None:
    job = yaml.safe_load(filled("deploy/kubernetes/mdf.yaml"))
    verdict = validate([job], "1.33")
    assert (verdict.problems, verdict.checked) == ([], 1)
    (pod,) = pods([job])
    assert violations(pod) == []
    (container,) = pod.containers
    assert container["args"] == ["doctor"]
    names = {item["metadata"]["name"] for item in installed if item["kind"] == "ConfigMap"}
    assert container["envFrom"][0]["configMapRef"]["name"] in names
    created = [command.words[-1] for command in of("kubectl") if "serviceaccount" in command.words]
    assert pod.spec["serviceAccountName"] in created


def test_the_jobs_environment_is_enough_for_mdf(
    installed: list[Object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`mdf doctor` reads the settings of every service, from one ConfigMap and one Secret."""
    (config,) = [
        item
        for item in installed
        if item["kind"] == "ConfigMap" and item["metadata"]["name"] == "market-data-snapshotter"
    ]
    for name, value in {**config["data"], "AUTH_API_KEYS": "key-one"}.items():
        monkeypatch.setenv(name, value)
    for service in SETTINGS:
        finding, loaded = check_settings(service)
        assert finding.level == "ok", finding
        assert loaded is not None
    assert config["data"]["SNAPSHOT_PERIOD_MS"] == "1000"
    assert {config["data"]["DDB_TABLE"], config["data"]["S3_BUCKET"]} <= set(VARIABLES.values())


def test_files_for_the_cluster_are_whole() -> None:
    cluster = yaml.safe_load(filled("deploy/eks/cluster.yaml"))
    zones = {zone for group in cluster["managedNodeGroups"] for zone in group["availabilityZones"]}
    assert len(zones) == 3
    assert {"vpc-cni", "eks-pod-identity-agent", "aws-ebs-csi-driver", "metrics-server"} <= {
        addon["name"] for addon in cluster["addons"]
    }
    gateway = yaml.safe_load(filled("deploy/eks/values.yaml"))["gateway"]
    assert gateway["networkPolicy"]["clientCidrs"] == [cluster["vpc"]["cidr"]]
    nats = yaml.safe_load(filled("deploy/eks/nats-values.yaml"))
    assert nats["config"]["merge"]["max_payload"] == 8 * 1024 * 1024
    storage = yaml.safe_load(filled("deploy/eks/gp3.yaml"))
    assert validate([storage], "1.33").problems == []
    assert (
        nats["config"]["jetstream"]["fileStore"]["pvc"]["storageClassName"]
        == storage["metadata"]["name"]
    )
