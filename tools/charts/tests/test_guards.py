"""What the charts refuse, and the arithmetic behind it."""

from __future__ import annotations

import re

import pytest

from tools.charts.helm import HelmFailed
from tools.charts.workspace import PROFILES, UMBRELLA, Object, Workspace

pytestmark = pytest.mark.charts

REFUSED = {
    "a preStop too short for a load balancer": (
        "gateway",
        {"drain.preStopSeconds": "5"},
        "greater than or equal to 20",
    ),
    "a deregistration delay that cuts the drain off": (
        "gateway",
        {"loadBalancer.profile": "alb", "loadBalancer.deregistrationDelaySeconds": "60"},
        r"is 60; it must be at least .* = 70",
    ),
    "an NLB without two minutes of preStop": (
        "gateway",
        {"loadBalancer.profile": "nlb", "loadBalancer.deregistrationDelaySeconds": "300"},
        "needs at least 120",
    ),
    "an unknown load balancer": (
        "gateway",
        {"loadBalancer.profile": "elb"},
        "loadBalancer.profile",
    ),
    "a misspelt value": ("gateway", {"replica": "3"}, "replica is not allowed"),
    "a setting that the service does not know": (
        "snapshotter",
        {"settings.SNAPSHOT_PERIOD": "1"},
        "SNAPSHOT_PERIOD is not allowed",
    ),
    "a secret among the settings": (
        "gateway",
        {"settings.AUTH_API_KEYS": "k"},
        "AUTH_API_KEYS is not allowed",
    ),
    "a setting that follows from other values": (
        "gateway",
        {"settings.DRAIN_SECONDS": "5"},
        "DRAIN_SECONDS is not allowed",
    ),
    "a misspelt setting for all services": (
        UMBRELLA,
        {"global.settings.NATS_URL": "nats://x"},
        "NATS_URL is not allowed",
    ),
    "shards that nobody works on": (
        "normalizer",
        {"shardRanges": "{0-3,5-7}"},
        "covers 7 of 8 shards",
    ),
    "a shard with two workers": ("normalizer", {"shardRanges": "{0-4,4-7}"}, "shard 4 is in two"),
    "a shard that does not exist": (
        "normalizer",
        {"shardRanges": "{0-8}"},
        "shard 8 does not exist, SHARD_COUNT is 8",
    ),
    "an even number of NATS servers": ("nats", {"replicas": "2"}, "replicas must be one of"),
    "a NATS that a book snapshot does not fit through": (
        "nats",
        {"maxPayload": "1048576"},
        "greater than or equal to 8.38",
    ),
    "more replicas of a log than servers": (
        UMBRELLA,
        {"global.settings.JS_REPLICAS": "3"},
        "JS_REPLICAS is 3, and nats.replicas is 1",
    ),
    "an open gateway in production": (
        "gateway",
        {"global.settings.ENVIRONMENT": "production"},
        "Secret with the key AUTH_API_KEYS",
    ),
    "a tag where a digest belongs": ("gateway", {"image.digest": "latest"}, "image.digest"),
    "a role that is no ARN": (
        "snapshotter",
        {"serviceAccount.roleArn": "market-data"},
        "serviceAccount.roleArn",
    ),
}


@pytest.mark.parametrize(("chart", "settings", "message"), REFUSED.values(), ids=list(REFUSED))
def test_the_charts_refuse(
    workspace: Workspace, chart: str, settings: dict[str, str], message: str
) -> None:
    with pytest.raises(HelmFailed, match=re.compile(message, re.DOTALL)):
        workspace.render(chart, settings=settings)


def gateway(objects: list[Object]) -> Object:
    return next(
        item
        for item in objects
        if item["kind"] == "Deployment"
        and item["metadata"]["labels"]["app.kubernetes.io/name"] == "gateway"
    )


@pytest.mark.parametrize("file", PROFILES)
def test_a_gateway_gets_the_time_that_its_drain_takes(workspace: Workspace, file: str) -> None:
    objects = workspace.render(UMBRELLA, workspace.profile(file))
    spec = gateway(objects)["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    pre_stop = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pre_stop >= 20
    (drain,) = (int(item["value"]) for item in container["env"] if item["name"] == "DRAIN_SECONDS")
    assert spec["terminationGracePeriodSeconds"] > pre_stop + drain
    for item in objects:
        if item["kind"] == "Ingress":
            attributes = item["metadata"]["annotations"][
                "alb.ingress.kubernetes.io/target-group-attributes"
            ]
            found = re.search(r"deregistration_delay.timeout_seconds=(\d+)", attributes)
            assert found is not None
            assert int(found[1]) >= pre_stop + drain


def test_the_grace_period_is_the_sum_of_the_drain(workspace: Workspace) -> None:
    objects = workspace.render(
        "gateway",
        settings={
            "drain.preStopSeconds": "120",
            "drain.drainSeconds": "60",
            "drain.marginSeconds": "10",
            "loadBalancer.profile": "nlb",
            "loadBalancer.deregistrationDelaySeconds": "180",
        },
    )
    spec = gateway(objects)["spec"]["template"]["spec"]
    assert spec["terminationGracePeriodSeconds"] == 190


def test_gateways_are_replaced_many_at_once_and_never_before_the_new_ones_are_ready(
    workspace: Workspace,
) -> None:
    strategy = gateway(workspace.render("gateway"))["spec"]["strategy"]["rollingUpdate"]
    assert strategy == {"maxSurge": "100%", "maxUnavailable": 0}


def test_an_autoscaled_gateway_has_no_replica_count_to_fight_over(workspace: Workspace) -> None:
    objects = workspace.render(
        "gateway",
        settings={"autoscaling.enabled": "true", "autoscaling.targetConnections": "4000"},
    )
    assert "replicas" not in gateway(objects)["spec"]
    (scaler,) = (item for item in objects if item["kind"] == "HorizontalPodAutoscaler")
    metrics = [metric["type"] for metric in scaler["spec"]["metrics"]]
    assert metrics == ["Pods", "Resource"]
    spec = gateway(objects)["spec"]["template"]["spec"]
    window = scaler["spec"]["behavior"]["scaleDown"]["stabilizationWindowSeconds"]
    assert window > spec["terminationGracePeriodSeconds"]


def test_product_sets_and_shard_ranges_become_one_single_pod_workload_each(
    workspace: Workspace,
) -> None:
    objects = workspace.render(UMBRELLA, workspace.profile("values-production.yaml"))
    units = {
        item["metadata"]["name"]: {
            variable["name"]: variable["value"]
            for variable in item["spec"]["template"]["spec"]["containers"][0].get("env", [])
        }
        for item in objects
        if item["kind"] == "Deployment" and item["spec"].get("replicas") == 1
    }
    assert units["market-data-ingestor-majors"]["COINBASE_PRODUCTS"] == "BTC-USD,ETH-USD"
    assert units["market-data-normalizer-0-3"]["NORMALIZER_SHARDS"] == "0-3"
    assert units["market-data-normalizer-4-7"]["NORMALIZER_SHARDS"] == "4-7"
