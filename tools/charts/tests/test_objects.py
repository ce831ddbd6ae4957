"""What the charts render, object by object."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tools.charts.kubernetes import validate
from tools.charts.pods import Pod, pods, violations
from tools.charts.workspace import CHARTS, PROFILES, SERVICES, UMBRELLA, Object, Workspace

pytestmark = pytest.mark.charts
Profile = Callable[[str], list[Object]]
every_profile = pytest.mark.parametrize("file", PROFILES)


def of_kind(objects: Iterable[Object], kind: str) -> dict[str, Any]:
    return {item["metadata"]["name"]: item for item in objects if item["kind"] == kind}


def matches(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return selector.items() <= labels.items()


@every_profile
def test_every_pod_satisfies_pod_security_restricted(profile: Profile, file: str) -> None:
    found = list(pods(profile(file)))
    assert len(found) >= 8  # four services and their test pods
    assert {pod.owner: violations(pod) for pod in found if violations(pod)} == {}


def test_the_restricted_checker_sees_each_violation() -> None:
    bad = Pod(
        "Pod/x",
        {},
        {
            "hostNetwork": True,
            "volumes": [{"name": "root", "hostPath": {"path": "/"}}],
            "containers": [{"name": "c", "securityContext": {"capabilities": {"add": ["SYS"]}}}],
        },
    )
    assert {text.split(": ")[-1] for text in violations(bad)} == {
        "hostNetwork is set",
        "volume root is of a forbidden type",
        "runAsNonRoot",
        "seccompProfile",
        "allowPrivilegeEscalation",
        "capabilities.drop",
        "capabilities.add",
        "readOnlyRootFilesystem",
    }


@every_profile
def test_no_pod_gets_an_api_token_or_service_links(profile: Profile, file: str) -> None:
    for pod in pods(profile(file)):
        assert pod.spec["automountServiceAccountToken"] is False, pod.owner
        assert pod.spec["enableServiceLinks"] is False, pod.owner


@every_profile
def test_every_long_running_container_has_the_three_probes_and_a_memory_limit(
    profile: Profile, file: str
) -> None:
    for pod in pods(profile(file)):
        if pod.owner.startswith("Pod/"):
            continue
        for container in pod.containers:
            assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys()
            assert container["resources"]["limits"]["memory"]
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}


@every_profile
def test_liveness_never_asks_whether_the_service_is_ready(profile: Profile, file: str) -> None:
    for pod in pods(profile(file)):
        for container in pod.containers:
            if "livenessProbe" in container:
                paths = [
                    container[probe]["httpGet"]["path"]
                    for probe in ("livenessProbe", "readinessProbe")
                ]
                assert "ready" not in paths[0]
                assert paths[0] != paths[1]


@every_profile
def test_every_selector_of_a_service_finds_pods_and_their_ports(
    profile: Profile, file: str
) -> None:
    objects = profile(file)
    running = [pod for pod in pods(objects) if not pod.owner.startswith("Pod/")]
    for name, service in of_kind(objects, "Service").items():
        found = [pod for pod in running if matches(service["spec"]["selector"], pod.labels)]
        assert found, name
        apps = {pod.labels["app.kubernetes.io/name"] for pod in found}
        assert len(apps) == 1, name
        for pod in found:
            ports = {port["name"] for c in pod.containers for port in c["ports"]}
            assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports, name


@every_profile
def test_a_workload_selects_its_own_pods_and_no_other(profile: Profile, file: str) -> None:
    objects = profile(file)
    everything = list(pods(objects))
    for item in objects:
        if item["kind"] in ("Deployment", "StatefulSet"):
            selector = item["spec"]["selector"]["matchLabels"]
            owner = f"{item['kind']}/{item['metadata']['name']}"
            assert [p.owner for p in everything if matches(selector, p.labels)] == [owner]


@every_profile
def test_selectors_hold_nothing_that_changes_with_a_version(profile: Profile, file: str) -> None:
    for item in profile(file):
        if item["kind"] in ("Deployment", "StatefulSet"):
            assert item["spec"]["selector"]["matchLabels"].keys() <= {
                "app.kubernetes.io/name",
                "app.kubernetes.io/instance",
                "market-data-fanout/unit",
            }


@every_profile
def test_a_disruption_budget_stands_exactly_where_there_is_more_than_one_pod(
    profile: Profile, file: str
) -> None:
    objects = profile(file)
    scaled = {
        item["spec"]["scaleTargetRef"]["name"]: item["spec"]["minReplicas"]
        for item in objects
        if item["kind"] == "HorizontalPodAutoscaler"
    }
    several = set()
    for kind in ("Deployment", "StatefulSet"):
        for name, item in of_kind(objects, kind).items():
            if item["spec"].get("replicas", scaled.get(name, 1)) > 1:
                several.add(name)
    assert of_kind(objects, "PodDisruptionBudget").keys() == several


@every_profile
def test_everything_that_is_named_exists(profile: Profile, file: str) -> None:
    """Config maps and service accounts; Secrets are the operator's own."""
    objects = profile(file)
    for pod in pods(objects):
        account = pod.spec.get("serviceAccountName")
        assert account is None or account in of_kind(objects, "ServiceAccount")
        for container in pod.containers:
            for source in container.get("envFrom", []):
                if "configMapRef" in source:
                    assert source["configMapRef"]["name"] in of_kind(objects, "ConfigMap")
        mounted = {m["name"] for c in pod.containers for m in c.get("volumeMounts", [])}
        volumes = {volume["name"] for volume in pod.spec.get("volumes", [])}
        claims = {"data"} if pod.owner.startswith("StatefulSet/") else set()
        assert mounted == volumes | claims, pod.owner


@every_profile
def test_every_pod_is_behind_a_network_policy(profile: Profile, file: str) -> None:
    objects = profile(file)
    policies = [
        item["spec"]["podSelector"]["matchLabels"]
        for item in of_kind(objects, "NetworkPolicy").values()
    ]
    for pod in pods(objects):
        if not pod.owner.startswith("Pod/"):
            assert any(matches(policy, pod.labels) for policy in policies), pod.owner


def templates(objects: Iterable[Object]) -> dict[str, Any]:
    return {
        item["metadata"]["name"]: item["spec"]["template"]
        for item in objects
        if item["kind"] in ("Deployment", "StatefulSet")
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
    before = templates(profile("values.yaml"))
    change = {} if setting == "nothing" else {f"global.settings.{setting}": "WARNING"}
    after = templates(workspace.render(UMBRELLA, settings=change))
    changed = {name.split("-")[2] for name in before if before[name] != after[name]}
    assert changed == services


def test_a_new_chart_version_with_the_same_image_restarts_nothing(
    workspace: Workspace, profile: Profile, tmp_path: Path
) -> None:
    newer = Workspace.copy(workspace.helm, tmp_path)
    for file in (*tmp_path.glob("*/*/Chart.yaml"), *tmp_path.glob("*/*/Chart.lock")):
        if file.name == "Chart.lock":
            file.unlink()
        else:
            file.write_text(re.sub(r"(?m)^( *version): 0\.1\.0$", r"\1: 0.2.0", file.read_text()))
    newer.build()
    objects = newer.render(UMBRELLA)
    assert {item["metadata"]["labels"].get("helm.sh/chart", "-0.2.0")[-6:] for item in objects} == {
        "-0.2.0"
    }
    assert templates(objects) == templates(profile("values.yaml"))


def test_large_numbers_keep_their_digits(workspace: Workspace) -> None:
    objects = workspace.render("snapshotter", settings={"settings.ARCHIVE_MAX_BYTES": "50000000"})
    data = of_kind(objects, "ConfigMap")["market-data-snapshotter"]["data"]
    assert data["ARCHIVE_MAX_BYTES"] == "50000000"


@pytest.mark.parametrize("chart", CHARTS)
def test_a_disabled_chart_is_not_rendered_and_the_others_are(
    workspace: Workspace, chart: str
) -> None:
    objects = workspace.render(UMBRELLA, settings={f"{chart}.enabled": "false"})
    found = {item["metadata"]["labels"]["app.kubernetes.io/name"] for item in objects}
    # The umbrella has an object of its own, the dashboards.
    assert {name.removesuffix("-test") for name in found} == {*CHARTS, UMBRELLA} - {chart}


@pytest.mark.parametrize("chart", SERVICES)
def test_a_role_for_irsa_is_an_annotation_and_none_without_it(
    workspace: Workspace, chart: str
) -> None:
    role = "arn:aws:iam::123456789012:role/market-data"
    for settings, expected in (
        ({"serviceAccount.roleArn": role}, {"eks.amazonaws.com/role-arn": role}),
        ({}, None),
    ):
        objects = workspace.render(chart, settings=settings)
        (account,) = of_kind(objects, "ServiceAccount").values()
        assert account["metadata"].get("annotations") == expected


def test_a_registry_and_a_digest_reach_every_image_of_the_release(workspace: Workspace) -> None:
    digest = "sha256:" + "a" * 64
    objects = workspace.render(
        UMBRELLA,
        settings={
            "global.imageRegistry": "example.internal/mirror",
            "global.imageTag": "1.2.3",
            "gateway.image.digest": digest,
        },
    )
    images = {
        pod.labels["app.kubernetes.io/name"]: container["image"]
        for pod in pods(objects)
        for container in pod.containers
    }
    assert all(image.startswith("example.internal/mirror/") for image in images.values())
    assert images["gateway"].endswith(f"/gateway@{digest}")
    assert images["ingestor"].endswith("/ingestor:1.2.3")
    assert images["nats"].endswith("/nats:2.15.1-alpine")


def test_nats_credentials_are_mounted_where_the_service_looks(workspace: Workspace) -> None:
    objects = workspace.render(UMBRELLA, settings={"global.natsCredsSecret": "creds"})
    for pod in pods(objects):
        if pod.owner.startswith("Deployment/"):
            (container,) = pod.containers
            variables = {item["name"]: item["value"] for item in container["env"]}
            mounts = {item["name"]: item["mountPath"] for item in container["volumeMounts"]}
            assert variables["NATS_CREDS_FILE"] == f"{mounts['nats-creds']}/nats.creds"


@pytest.mark.parametrize("chart", SERVICES)
def test_alerts_reach_prometheus_as_they_are_written(workspace: Workspace, chart: str) -> None:
    objects = workspace.render(chart, settings={"metrics.prometheusRule.enabled": "true"})
    (rule,) = of_kind(objects, "PrometheusRule").values()
    written = yaml.safe_load((workspace.chart(chart) / "alerts.yaml").read_text())
    assert [group["rules"] for group in rule["spec"]["groups"]] == [written]


def test_grafana_finds_the_dashboards_as_they_are_written(workspace: Workspace) -> None:
    objects = workspace.render("market-data-fanout")
    (found,) = (
        item
        for item in of_kind(objects, "ConfigMap").values()
        if item["metadata"]["labels"].get("grafana_dashboard") == "1"
    )
    folder = workspace.chart("market-data-fanout") / "dashboards"
    written = {path.name: json.loads(path.read_text()) for path in folder.glob("*.json")}
    assert len(written) == 3
    assert {name: json.loads(text) for name, text in found["data"].items()} == written


@pytest.mark.parametrize("certificate", ["", "arn:aws:acm:eu-west-1:123456789012:certificate/x"])
@pytest.mark.parametrize("host", ["", "md.example.com"])
def test_an_alb_asks_the_admin_port_for_readiness_and_sends_to_pods(
    workspace: Workspace, host: str, certificate: str
) -> None:
    objects = workspace.render(
        "gateway",
        settings={
            "loadBalancer.profile": "alb",
            "loadBalancer.host": host,
            "loadBalancer.certificateArn": certificate,
        },
    )
    assert validate(objects, "1.33").problems == []
    (ingress,) = of_kind(objects, "Ingress").values()
    marks = ingress["metadata"]["annotations"]
    assert marks["alb.ingress.kubernetes.io/target-type"] == "ip"
    assert marks["alb.ingress.kubernetes.io/healthcheck-port"] == "9090"
    assert marks["alb.ingress.kubernetes.io/healthcheck-path"] == "/readyz"
    assert ("HTTPS" in str(marks)) == bool(certificate)
    (rule,) = ingress["spec"]["rules"]
    assert rule.get("host", "") == host
    backend = rule["http"]["paths"][0]["backend"]["service"]
    assert backend["name"] in of_kind(objects, "Service")


def test_an_nlb_is_the_service_itself(workspace: Workspace) -> None:
    objects = workspace.render(
        "gateway",
        settings={
            "loadBalancer.profile": "nlb",
            "loadBalancer.certificateArn": "arn:aws:acm:eu-west-1:123456789012:certificate/x",
            "drain.preStopSeconds": "120",
            "loadBalancer.deregistrationDelaySeconds": "240",
        },
    )
    assert validate(objects, "1.33").problems == []
    assert of_kind(objects, "Ingress") == {}
    service = of_kind(objects, "Service")["market-data-gateway"]
    assert service["spec"]["loadBalancerClass"] == "service.k8s.aws/nlb"
    assert [port["port"] for port in service["spec"]["ports"]] == [443]
    attributes = service["metadata"]["annotations"][
        "service.beta.kubernetes.io/aws-load-balancer-target-group-attributes"
    ]
    assert attributes == "deregistration_delay.timeout_seconds=240"
