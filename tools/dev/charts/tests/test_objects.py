"""What the charts render, object by object."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest
import yaml

from tools.dev.charts.kubernetes import Pod, pods, violations
from tools.dev.charts.testing import of_kind
from tools.dev.charts.workspace import CHARTS, PROFILES, SERVICES, UMBRELLA, Object, Workspace

pytestmark = pytest.mark.charts
type Profile = Callable[[str], list[Object]]
WORKLOADS = ("Deployment", "StatefulSet", "Rollout")
SCALERS = {"HorizontalPodAutoscaler": "minReplicas", "ScaledObject": "minReplicaCount"}
every_profile = pytest.mark.parametrize("name", PROFILES)


def matches(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return selector.items() <= labels.items()


@every_profile
def test_every_pod_satisfies_pod_security_restricted(profile: Profile, name: str) -> None:
    found = list(pods(profile(name)))
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
def test_no_pod_gets_an_api_token_or_service_links(profile: Profile, name: str) -> None:
    for pod in pods(profile(name)):
        assert pod.spec["automountServiceAccountToken"] is False, pod.owner
        assert pod.spec["enableServiceLinks"] is False, pod.owner


@every_profile
def test_every_long_running_container_has_the_three_probes_and_a_memory_limit(
    profile: Profile, name: str
) -> None:
    for pod in pods(profile(name)):
        if pod.owner.startswith("Pod/"):
            continue
        for container in pod.containers:
            assert "livenessProbe" in container
            # A server serves without its exporter, so that one says nothing of readiness.
            if container["name"] != "exporter":
                assert {"startupProbe", "readinessProbe"} <= container.keys()
            assert container["resources"]["limits"]["memory"]
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}


@every_profile
def test_started_ready_and_alive_are_three_questions(profile: Profile, name: str) -> None:
    asked = {"startupProbe": "/startupz", "readinessProbe": "/readyz", "livenessProbe": "/livez"}
    for pod in pods(profile(name)):
        for container in pod.containers:
            if "readinessProbe" in container:
                paths = {probe: container[probe]["httpGet"]["path"] for probe in asked}
                assert len({*paths.values()}) == 3, pod.owner
                if container["name"] != "nats":
                    assert paths == asked


def test_a_start_may_take_as_long_as_it_is_given(workspace: Workspace) -> None:
    objects = workspace.render("gateway", settings={"startupSeconds": "61"})
    (pod,) = (pod for pod in pods(objects) if pod.owner.startswith("Deployment/"))
    probe = pod.containers[0]["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] == 65


@every_profile
def test_every_selector_of_a_service_finds_pods_and_their_ports(
    profile: Profile, name: str
) -> None:
    objects = profile(name)
    running = [pod for pod in pods(objects) if not pod.owner.startswith("Pod/")]
    for title, service in of_kind(objects, "Service").items():
        found = [pod for pod in running if matches(service["spec"]["selector"], pod.labels)]
        assert found, title
        apps = {pod.labels["app.kubernetes.io/name"] for pod in found}
        assert len(apps) == 1, title
        for pod in found:
            ports = {port["name"] for c in pod.containers for port in c["ports"]}
            assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports, title


@every_profile
def test_prometheus_finds_each_pod_once_and_a_port_that_is_there(
    profile: Profile, name: str
) -> None:
    objects = profile(name)
    for title, monitor in of_kind(objects, "ServiceMonitor").items():
        wanted = monitor["spec"]["selector"]["matchLabels"]
        (service,) = (
            item
            for item in of_kind(objects, "Service").values()
            if matches(wanted, item["metadata"]["labels"])
        )
        (endpoint,) = monitor["spec"]["endpoints"]
        assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}, title


@every_profile
def test_a_workload_selects_its_own_pods_and_no_other(profile: Profile, name: str) -> None:
    objects = profile(name)
    everything = list(pods(objects))
    for item in objects:
        if item["kind"] in WORKLOADS:
            selector = item["spec"]["selector"]["matchLabels"]
            owner = f"{item['kind']}/{item['metadata']['name']}"
            assert [p.owner for p in everything if matches(selector, p.labels)] == [owner]


@every_profile
def test_a_disruption_budget_stands_exactly_where_there_is_more_than_one_pod(
    profile: Profile, name: str
) -> None:
    objects = profile(name)
    scaled = {
        item["spec"]["scaleTargetRef"]["name"]: item["spec"][least]
        for kind, least in SCALERS.items()
        for item in of_kind(objects, kind).values()
    }
    several = set()
    for kind in WORKLOADS:
        for title, item in of_kind(objects, kind).items():
            if item["spec"].get("replicas", scaled.get(title, 1)) > 1:
                several.add(title)
    assert of_kind(objects, "PodDisruptionBudget").keys() == several


@pytest.mark.parametrize("release", ["md", "nats", "my-gateway", "r" * 53])
def test_a_release_may_have_any_name(workspace: Workspace, release: str) -> None:
    objects = workspace.render(UMBRELLA, release=release)
    found = [(item["kind"], item["metadata"]["name"]) for item in objects]
    assert len(found) == len(set(found)), "two objects of one name"
    # The longest that is added to a StatefulSet's name is its revision, as a label of the pods.
    longest = {"Service": 63, "StatefulSet": 52}
    for kind, name in found:
        assert len(name) <= longest.get(kind, 253), (kind, name)
        assert re.fullmatch("[a-z0-9]([a-z0-9-]*[a-z0-9])?", name), name
    services = of_kind(objects, "Service")
    for item in of_kind(objects, "ConfigMap").values():
        if "NATS_URLS" in item["data"]:
            host = re.fullmatch(r"(?:nats|tls)://([^:]+):4222", item["data"]["NATS_URLS"])
            assert host is not None
            assert host[1] in services


@every_profile
def test_everything_that_is_named_exists(profile: Profile, name: str) -> None:
    """Config maps and service accounts; Secrets are the operator's own."""
    objects = profile(name)
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
def test_every_pod_is_behind_a_network_policy(profile: Profile, name: str) -> None:
    objects = profile(name)
    policies = [
        item["spec"]["podSelector"]["matchLabels"]
        for item in of_kind(objects, "NetworkPolicy").values()
    ]
    for pod in pods(objects):
        if not pod.owner.startswith("Pod/"):
            assert any(matches(policy, pod.labels) for policy in policies), pod.owner


def test_snapshotters_divide_the_logs_and_one_of_them_archives_what_came_in(
    workspace: Workspace,
) -> None:
    objects = workspace.render("snapshotter", settings={"shardRanges": "{0-3,4-7}"}, release="md")
    units = {
        name: {v["name"]: v["value"] for v in pod["spec"]["containers"][0]["env"]}
        for name, item in of_kind(objects, "Deployment").items()
        for pod in [item["spec"]["template"]]
    }
    assert {name: env["SNAPSHOTTER_SHARDS"] for name, env in units.items()} == {
        "md-snapshotter-0-3": "0-3",
        "md-snapshotter-4-7": "4-7",
    }
    raw = [name for name, env in units.items() if env.get("ARCHIVE_RAW") != "false"]
    assert raw == ["md-snapshotter-0-3"]
    for name, item in of_kind(objects, "Deployment").items():
        selector = item["spec"]["selector"]["matchLabels"]
        found = [pod.owner for pod in pods(objects) if matches(selector, pod.labels)]
        assert found == [f"Deployment/{name}"]
    (whole,) = of_kind(workspace.render("snapshotter", release="md"), "Deployment").values()
    assert whole["metadata"]["name"] == "md-snapshotter"
    assert "market-data-fanout/unit" not in whole["spec"]["selector"]["matchLabels"]


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


def test_the_digests_of_a_release_are_one_map(workspace: Workspace) -> None:
    digests = {name: "sha256:" + str(number) * 64 for number, name in enumerate(CHARTS)}
    digests["nats-exporter"] = "sha256:" + "e" * 64
    objects = workspace.render(
        UMBRELLA,
        settings={
            **{f"global.imageDigests.{name}": digest for name, digest in digests.items()},
            "nats.metrics.exporter.enabled": "true",
        },
    )
    found = {c["image"].partition("@")[2] for pod in pods(objects) for c in pod.containers}
    assert found == {*digests.values()}


def test_nats_credentials_are_mounted_where_the_service_looks(workspace: Workspace) -> None:
    objects = workspace.render(UMBRELLA, settings={"global.natsCredsSecret": "creds"})
    for pod in pods(objects):
        if pod.owner.startswith("Deployment/"):
            (container,) = pod.containers
            variables = {item["name"]: item["value"] for item in container["env"]}
            mounts = {item["name"]: item["mountPath"] for item in container["volumeMounts"]}
            assert variables["NATS_CREDS_FILE"] == f"{mounts['nats-creds']}/nats.creds"


def test_each_services_secret_is_what_it_says_and_what_the_servers_ask_for(
    profile: Profile,
) -> None:
    users = (*sorted(SERVICES), "operator")
    for pod in pods(profile("staging")):
        if pod.owner.startswith("Pod/"):
            continue
        container = pod.containers[0]
        if container["name"] == "nats":
            sources = [item.get("valueFrom", {}) for item in container["env"]]
            keys = [item["secretKeyRef"] for item in sources if "secretKeyRef" in item]
            assert sorted(keys, key=lambda item: (item["name"], item["key"])) == sorted(
                (
                    {"name": f"market-data-nats-{user}", "key": key}
                    for user in users
                    for key in ("NATS_PASSWORD", "NATS_USER")
                ),
                key=lambda item: (item["name"], item["key"]),
            )
        else:
            own = f"market-data-nats-{pod.labels['app.kubernetes.io/name']}"
            assert {"secretRef": {"name": own}} in container["envFrom"]


@every_profile
def test_what_uses_aws_reaches_the_pod_identity_agent(profile: Profile, name: str) -> None:
    for title, policy in of_kind(profile(name), "NetworkPolicy").items():
        blocks = {
            peer["ipBlock"]["cidr"]
            for rule in policy["spec"]["egress"]
            if rule["ports"] == [{"port": 80}]
            for peer in rule["to"]
        }
        aws = title.endswith(("-gateway", "-snapshotter"))
        assert blocks == ({"169.254.170.23/32", "fd00:ec2::23/128"} if aws else set()), title


@pytest.mark.parametrize("chart", SERVICES)
def test_alerts_reach_prometheus_as_they_are_written(workspace: Workspace, chart: str) -> None:
    objects = workspace.render(chart, settings={"metrics.prometheusRule.enabled": "true"})
    (rule,) = of_kind(objects, "PrometheusRule").values()
    written = yaml.safe_load((workspace.chart(chart) / "alerts.yaml").read_text())
    assert [group["rules"] for group in rule["spec"]["groups"]] == [written]


def test_prometheus_can_be_told_what_to_select_in_one_place(workspace: Workspace) -> None:
    objects = workspace.render(
        UMBRELLA,
        *workspace.profile("staging"),
        settings={
            "global.monitorLabels.release": "monitoring",
            "gateway.metrics.serviceMonitor.labels.release": "other",
        },
    )
    found = {
        f"{kind}/{name}": item["metadata"]["labels"]["release"]
        for kind in ("ServiceMonitor", "PrometheusRule")
        for name, item in of_kind(objects, kind).items()
    }
    assert len(found) == 9
    assert found.pop("ServiceMonitor/market-data-gateway") == "other"
    assert set(found.values()) == {"monitoring"}


def test_whoever_gets_an_alert_can_open_its_page(workspace: Workspace) -> None:
    pages = "https://wiki.example.com/runbooks"
    objects = workspace.render(
        "gateway",
        settings={
            "metrics.prometheusRule.enabled": "true",
            "metrics.prometheusRule.runbookUrl": pages + "/",
        },
    )
    (rule,) = of_kind(objects, "PrometheusRule").values()
    for alert in rule["spec"]["groups"][0]["rules"]:
        assert alert["annotations"]["runbook_url"] == f"{pages}/{alert['alert']}.md"


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
