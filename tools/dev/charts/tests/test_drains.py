"""The times of a drain, and how many pods there are of what, in every profile."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from services.normalizer import app as normalizer_app
from tools.dev.charts.kubernetes import pods
from tools.dev.charts.workspace import PROFILES, Object, Workspace

pytestmark = pytest.mark.charts
type Profile = Callable[[str], list[Object]]


def gateway(objects: list[Object]) -> Object:
    return next(
        item
        for item in objects
        if item["kind"] in ("Deployment", "Rollout")
        and item["metadata"]["labels"]["app.kubernetes.io/name"] == "gateway"
    )


@pytest.mark.parametrize("name", PROFILES)
def test_a_gateway_gets_the_time_that_its_drain_takes(profile: Profile, name: str) -> None:
    objects = profile(name)
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


@pytest.mark.parametrize("name", PROFILES)
def test_every_service_is_told_to_be_done_before_it_is_killed(profile: Profile, name: str) -> None:
    own = {"DRAIN_SECONDS": 1.0, "STOP_GRACE_S": 1.0, "DRAIN_TIMEOUT_MS": 0.002}
    told = []
    for pod in pods(profile(name)):
        variables = {
            item["name"]: item.get("value")
            for container in pod.containers
            for item in container.get("env", [])
        }
        for setting, seconds in own.items():
            if (value := variables.get(setting)) is not None:
                grace = pod.spec["terminationGracePeriodSeconds"]
                hooks = pod.containers[0].get("lifecycle", {})
                pre_stop = hooks.get("preStop", {}).get("sleep", {}).get("seconds", 0)
                assert grace >= pre_stop + float(value) * seconds + 5, pod.owner
                told.append(pod.labels["app.kubernetes.io/name"])
    assert {"gateway", "snapshotter", "ingestor"} <= set(told)


def test_a_normalizer_has_longer_than_it_takes_by_itself(profile: Profile) -> None:
    (normalizer,) = (p for p in pods(profile("dev")) if p.owner.endswith("normalizer-all"))
    assert normalizer.spec["terminationGracePeriodSeconds"] >= normalizer_app._DRAIN_S + 5


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


def test_the_pre_stop_may_be_the_sleep_of_the_image(workspace: Workspace) -> None:
    objects = workspace.render("gateway", settings={"drain.preStopMode": "exec"})
    (container,) = gateway(objects)["spec"]["template"]["spec"]["containers"]
    assert container["lifecycle"] == {"preStop": {"exec": {"command": ["sleep", "25"]}}}


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


def test_product_sets_and_shard_ranges_become_one_workload_each(
    profile: Profile,
) -> None:
    objects = profile("production")
    units = {
        item["metadata"]["name"]: {
            variable["name"]: variable["value"]
            for variable in item["spec"]["template"]["spec"]["containers"][0].get("env", [])
        }
        for item in objects
        if item["kind"] == "Deployment" and "market-data-fanout/unit" in item["metadata"]["labels"]
    }
    sets = {name for name in units if name.startswith("market-data-ingestor-")}
    # A set of the defaults beside them would be a second writer of BTC-USD.
    assert sets == {"market-data-ingestor-majors", "market-data-ingestor-others"}
    assert units["market-data-ingestor-majors"]["COINBASE_PRODUCTS"] == "BTC-USD,ETH-USD"
    assert units["market-data-ingestor-majors"]["INGESTOR_PAIR"] == "majors"
    assert units["market-data-ingestor-others"]["INGESTOR_PAIR"] == "others"
    assert units["market-data-normalizer-0-3"]["NORMALIZER_SHARDS"] == "0-3"
    assert units["market-data-normalizer-4-7"]["NORMALIZER_SHARDS"] == "4-7"
