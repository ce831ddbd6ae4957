"""KEDA and Argo Rollouts: what stands for what, and what the two ask Prometheus."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tools.dev.charts.kubernetes import validate
from tools.dev.charts.workspace import PROFILES, UMBRELLA, Object, Workspace
from tools.dev.observability import metrics_table

pytestmark = pytest.mark.charts
type Profile = Callable[[str], list[Object]]

HASH = "{{args.canary-hash}}"
# What the Prometheus operator adds to every series of a ServiceMonitor.
OPERATOR = {"namespace", "service", "rollouts_pod_template_hash"}


def of_gateway(objects: list[Object]) -> dict[str, Object]:
    """The gateway's objects by kind, those that have its bare name."""
    return {item["kind"]: item for item in objects if item["metadata"]["name"].endswith("-gateway")}


def queries(objects: list[Object]) -> dict[str, str]:
    """Every question to Prometheus: the autoscaler's, and those of the canary's analysis."""
    found = of_gateway(objects)
    asked: dict[str, str] = {}
    if "ScaledObject" in found:
        asked["connections"] = found["ScaledObject"]["spec"]["triggers"][0]["metadata"]["query"]
    if "AnalysisTemplate" in found:
        for metric in found["AnalysisTemplate"]["spec"]["metrics"]:
            asked[metric["name"]] = metric["provider"]["prometheus"]["query"]
    return asked


@pytest.mark.parametrize("name", PROFILES)
def test_at_most_one_autoscaler_and_one_workload_and_they_fit(profile: Profile, name: str) -> None:
    found = of_gateway(profile(name))
    scalers = {"HorizontalPodAutoscaler", "ScaledObject"} & found.keys()
    workloads = {"Deployment", "Rollout"} & found.keys()
    assert len(workloads) == 1
    assert len(scalers) <= 1
    assert ("ScaledObject" in scalers) == ("keda" in name)
    assert ("Rollout" in workloads) == ("rollouts" in name)
    for kind in scalers:
        (workload,) = (found[kind] for kind in workloads)
        assert found[kind]["spec"]["scaleTargetRef"] == {
            "apiVersion": workload["apiVersion"],
            "kind": workload["kind"],
            "name": workload["metadata"]["name"],
        }
        assert "replicas" not in workload["spec"]


def test_a_rollout_runs_the_very_pods_of_the_deployment_it_stands_for(profile: Profile) -> None:
    before = of_gateway(profile("production"))["Deployment"]["spec"]
    after = of_gateway(profile("production-rollouts"))["Rollout"]["spec"]
    assert after["selector"] == before["selector"]
    text = yaml.safe_dump(after["template"])
    assert text.replace("rollouts-pod-template-hash", "pod-template-hash") == yaml.safe_dump(
        before["template"]
    )
    canary = after["strategy"]["canary"]
    assert (canary["maxUnavailable"], canary["maxSurge"]) == (0, "100%")
    first = canary["steps"][canary["analysis"]["startingStep"]]
    assert "pause" in first, "new pods have to be there before they are judged"


def test_new_pods_are_spread_among_themselves(profile: Profile) -> None:
    for name in ("production", "production-rollouts"):
        found = of_gateway(profile(name))
        workload = found.get("Deployment") or found["Rollout"]
        label = {"Deployment": "pod-template-hash", "Rollout": "rollouts-pod-template-hash"}
        constraints = workload["spec"]["template"]["spec"]["topologySpreadConstraints"]
        assert [item["topologyKey"] for item in constraints] == [
            "topology.kubernetes.io/zone",
            "kubernetes.io/hostname",
        ]
        for item in constraints:
            assert item["matchLabelKeys"] == [label[workload["kind"]]]


def test_a_prometheus_that_is_away_scales_nothing_down(profile: Profile) -> None:
    spec = of_gateway(profile("production-keda"))["ScaledObject"]["spec"]
    assert spec["fallback"]["behavior"] == "currentReplicasIfHigher"
    assert spec["fallback"]["replicas"] == spec["minReplicaCount"] == 3
    by_type = {trigger["type"]: trigger for trigger in spec["triggers"]}
    assert by_type["prometheus"]["metadata"]["ignoreNullValues"] == "false"
    assert by_type["prometheus"]["metricType"] == "AverageValue"
    assert by_type["cpu"]["metricType"] == "Utilization"


def test_keda_and_hpa_scale_alike(workspace: Workspace, profile: Profile) -> None:
    settings = {"gateway.autoscaling.targetConnections": "5000"}
    files = workspace.profile("production")
    hpa = of_gateway(workspace.render(UMBRELLA, *files, settings=settings))
    keda = of_gateway(profile("production-keda"))["ScaledObject"]["spec"]
    spec = hpa["HorizontalPodAutoscaler"]["spec"]
    advanced = keda["advanced"]["horizontalPodAutoscalerConfig"]
    assert spec["behavior"] == advanced["behavior"]
    assert spec["metrics"][0]["pods"]["target"]["averageValue"] == "5000"
    assert keda["triggers"][0]["metadata"]["threshold"] == "5000"


def test_a_query_of_ones_own_is_a_template(workspace: Workspace) -> None:
    objects = workspace.render(
        "gateway",
        settings={
            "autoscaling.enabled": "true",
            "autoscaling.kind": "keda",
            "autoscaling.targetConnections": "10",
            "autoscaling.keda.query": 'sum(md_ws_connections{job="{{ .Release.Name }}"})',
        },
    )
    assert queries(objects) == {"connections": 'sum(md_ws_connections{job="market-data"})'}


def test_a_prometheus_that_wants_to_know_who_asks_is_told(workspace: Workspace) -> None:
    """As Amazon Managed Prometheus does."""
    found = of_gateway(
        workspace.render(
            UMBRELLA,
            *workspace.profile("production-keda-rollouts"),
            settings={
                "gateway.metrics.prometheusAddress": "https://aps.example.com/workspaces/ws-1",
                "gateway.autoscaling.keda.authenticationRef.name": "amp",
                "gateway.autoscaling.keda.metadata.awsRegion": "eu-west-1",
                "gateway.canary.analysis.authentication.sigv4.region": "eu-west-1",
            },
        )
    )
    assert validate(found.values(), "1.33").problems == []
    trigger = found["ScaledObject"]["spec"]["triggers"][0]
    assert trigger["authenticationRef"] == {"name": "amp"}
    assert trigger["metadata"]["awsRegion"] == "eu-west-1"
    asked = [trigger["metadata"]["serverAddress"]]
    for metric in found["AnalysisTemplate"]["spec"]["metrics"]:
        provider = metric["provider"]["prometheus"]
        assert provider["authentication"] == {"sigv4": {"region": "eu-west-1"}}
        asked.append(provider["address"])
    assert asked == ["https://aps.example.com/workspaces/ws-1"] * 4


def exported() -> dict[str, set[str]]:
    """The gateway's series, as queries name them, each with its labels."""
    found: dict[str, set[str]] = {}
    for row in metrics_table.rows(metrics_table.registries()["gateway"]):
        labels = set(row.labels)
        found[row.name] = labels
        if row.kind == "histogram":
            found[f"{row.name}_bucket"] = labels | {"le"}
    return found


def test_every_metric_and_label_that_is_asked_for_is_exported(profile: Profile) -> None:
    known = exported()
    asked = queries(profile("production-keda-rollouts"))
    assert asked.keys() == {"connections", "abnormal-closes", "gaps", "delivery-p99"}
    for name, query in asked.items():
        selectors = re.findall(r"(md_\w+)\{([^}]*(?:\{\{[^}]*\}\}[^}]*)?)\}", query)
        assert len(selectors) == len(re.findall(r"md_\w+", query)) > 0, name
        for metric, labels in selectors:
            assert metric in known, f"{name}: {metric} is not exported"
            used = set(re.findall(r'(\w+)=~?"', labels))
            assert used - OPERATOR <= known[metric], f"{name}: {metric}"
            assert {"namespace", "service"} <= used
            assert ("rollouts_pod_template_hash" in used) == (name != "connections")


def test_what_counts_as_abnormal_is_a_reason_that_the_gateway_gives(profile: Profile) -> None:
    (family,) = (
        family
        for family in metrics_table.registries()["gateway"].collect()
        if family.name == "md_ws_closed"
    )
    given = {sample.labels["reason"] for sample in family.samples if "reason" in sample.labels}
    found = re.search(
        r'reason=~"([^"]*)"', queries(profile("production-rollouts"))["abnormal-closes"]
    )
    assert found is not None
    assert set(found[1].split("|")) <= given


def test_the_pods_of_a_canary_carry_the_label_that_the_analysis_selects(profile: Profile) -> None:
    objects = profile("production-rollouts")
    found = of_gateway(objects)
    labels = found["ServiceMonitor"]["spec"]["podTargetLabels"]
    assert "rollouts_pod_template_hash" in {label.replace("-", "_") for label in labels}
    (argument,) = found["Rollout"]["spec"]["strategy"]["canary"]["analysis"]["args"]
    template = found["AnalysisTemplate"]
    assert [argument["name"]] == [item["name"] for item in template["spec"]["args"]]
    assert f"{{{{args.{argument['name']}}}}}" == HASH
    name = template["metadata"]["name"]
    analysis = found["Rollout"]["spec"]["strategy"]["canary"]["analysis"]
    assert analysis["templates"] == [{"templateName": name}]


@pytest.fixture
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail("CI has to have promtool: Debian's package `prometheus`")
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus)")
    return found


SERIES = 'namespace="market-data",service="market-data-gateway-admin"'


def series(metric: str, values: str, pod: str = "new", **labels: str) -> dict[str, str]:
    more = "".join(f',{name}="{value}"' for name, value in labels.items())
    where = f'{SERIES},rollouts_pod_template_hash="{pod}"{more}'
    return {"series": f"{metric}{{{where}}}", "values": values}


def close(reason: str, values: str, pod: str = "new") -> dict[str, str]:
    return series("md_ws_closed_total", values, pod, reason=reason)


def delivered(bound: str, values: str) -> dict[str, str]:
    return series("md_end_to_end_seconds_bucket", values, le=bound, channel="book")


HEALTHY = [
    series("md_ws_connections", "900x30"),
    series("md_ws_connections", "9000x30", pod="old"),
    close("internal", "0x30"),
    close("slow_closed", "0x30"),
    # What clients do themselves, and what a drain does, is none of it.
    close("client", "0+20x30"),
    close("service_restart", "0+20x30"),
    # Nor what the old pods do.
    close("internal", "0+500x30", pod="old"),
    series("md_seq_gap_total", "0+9x30", pod="old", stage="tick_log"),
    delivered("0.1", "0+99x30"),
    delivered("0.5", "0+100x30"),
    delivered("+Inf", "0+100x30"),
]
# In each: what is there beside the healthy series, what is asked, and the answer.
CASES: dict[str, tuple[list[dict[str, str]], str, float | None]] = {
    "healthy pods close nobody": (HEALTHY, "abnormal-closes", 0),
    "healthy pods have no gap, though no gap was ever counted": (HEALTHY, "gaps", 0),
    "healthy pods deliver in time": (HEALTHY, "delivery-p99", 0.1),
    "all clients are counted, of old pods and new": (HEALTHY, "connections", 9900),
    "one failed client in a hundred": (
        [series("md_ws_connections", "90x30"), close("internal", "0 0 0 0 0 0+2x5 10x20")],
        "abnormal-closes",
        0.1,
    ),
    "one gap, with which its series begins": (
        [*HEALTHY, series("md_seq_gap_total", "_x8 1x21", stage="tick_log")],
        "gaps",
        1,
    ),
    "pods that nobody scrapes have no closes": ([], "abnormal-closes", None),
    "pods that nobody scrapes have no gaps": ([], "gaps", None),
    "pods that nobody scrapes have no p99": ([], "delivery-p99", None),
    "clients that nobody counts are not no clients": ([], "connections", None),
}


def test_the_questions_are_answered_as_the_analysis_understands_them(
    promtool: str, profile: Profile, tmp_path: Path
) -> None:
    asked = {
        name: query.replace(HASH, "new")
        for name, query in queries(profile("production-keda-rollouts")).items()
    }
    (tmp_path / "none.yaml").write_text("groups: []\n")
    tests: list[dict[str, Any]] = []
    for name, (given, question, value) in CASES.items():
        samples = [] if value is None else [{"labels": "{}", "value": value}]
        tests.append(
            {
                "name": name,
                "interval": "1m",
                "input_series": given,
                "promql_expr_test": [
                    {"expr": asked[question], "eval_time": "10m", "exp_samples": samples}
                ],
            }
        )
    file = tmp_path / "tests.yaml"
    file.write_text(yaml.safe_dump({"rule_files": ["none.yaml"], "tests": tests}))
    done = subprocess.run(
        [promtool, "test", "rules", str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
