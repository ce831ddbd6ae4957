"""What the charts refuse."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from tools.dev.charts.workspace import UMBRELLA, HelmFailed, Workspace

pytestmark = pytest.mark.charts

REFUSED: dict[str, tuple[str, dict[str, str], str]] = {
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
    "a misspelt value of a service in the umbrella": (
        UMBRELLA,
        {"gateway.drain.preStop": "30"},
        "preStop is not allowed",
    ),
    "a misspelt service": (UMBRELLA, {"gatway.replicas": "3"}, "gatway is not allowed"),
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
        {"nats.replicas": "1"},
        "JS_REPLICAS is 3, and nats.replicas is 1",
    ),
    "a NATS that everybody may write to in production": (
        "ingestor",
        {"settings.ENVIRONMENT": "production", "settings.NATS_URLS": "tls://nats:4222"},
        "set natsCredsSecret or natsAuthSecret",
    ),
    "a NATS in the clear in production": (
        "ingestor",
        {
            "settings.ENVIRONMENT": "production",
            "settings.NATS_URLS": r"tls://a:4222\,nats://b:4222",
            "natsCredsSecret": "creds",
        },
        "NATS_URLS has nats://b:4222 without TLS",
    ),
    "a load balancer in the clear in production": (
        "gateway",
        {
            "settings.ENVIRONMENT": "production",
            "existingSecret": "keys",
            "loadBalancer.profile": "alb",
            "loadBalancer.deregistrationDelaySeconds": "120",
        },
        "set loadBalancer.certificateArn, so that the alb speaks TLS",
    ),
    "a variable of the chart's own": (
        "gateway",
        {"extraEnv[0].name": "DRAIN_SECONDS", "extraEnv[0].value": "1"},
        "extraEnv: DRAIN_SECONDS is set by the chart itself",
    ),
    "a NATS user that there are no permissions for": (
        "nats",
        {"auth.users.trader": "secret"},
        "auth.users: trader is none of ingestor, normalizer, snapshotter, gateway, operator",
    ),
    "one NATS user for all beside one for each": (
        "nats",
        {"auth.users.gateway": "secret", "auth.existingSecret": "secret"},
        "auth.users and auth.existingSecret: one user for each service, or one for all",
    ),
    "a variable twice": (
        "gateway",
        {"extraEnv[0].name": "A", "extraEnv[1].name": "A"},
        "extraEnv: A is there twice",
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
    "a grace period of its own": (
        "gateway",
        {"terminationGracePeriodSeconds": "30"},
        "terminationGracePeriodSeconds is not allowed",
    ),
    "a normalizer that is killed while it finishes": (
        "normalizer",
        {"drain.drainSeconds": "5"},
        "greater than or equal to 10",
    ),
    "a rollout that cannot begin": (
        "gateway",
        {"rollout.maxSurge": "0"},
        "greater than or equal to 1",
    ),
    "a disruption budget that no node drain gets past": (
        "gateway",
        {"pdb.maxUnavailable": "0%"},
        "pdb.maxUnavailable",
    ),
    "a load balancer that takes quiet clients for idle ones": (
        "gateway",
        {
            "loadBalancer.profile": "alb",
            "loadBalancer.idleTimeoutSeconds": "20",
            "settings.WS_HEARTBEAT_MS": "30000",
        },
        "idleTimeoutSeconds is 20, and WS_HEARTBEAT_MS is 30 s",
    ),
    "an NLB that cuts quiet clients": (
        "gateway",
        {
            "loadBalancer.profile": "nlb",
            "loadBalancer.deregistrationDelaySeconds": "300",
            "drain.preStopSeconds": "120",
            "settings.WS_HEARTBEAT_MS": "400000",
        },
        "WS_HEARTBEAT_MS is 400 s: an NLB cuts",
    ),
    "clients from nowhere": (
        "gateway",
        {"networkPolicy.clientCidrs": "{10.0.0.1}"},
        "clientCidrs.0: Does not match pattern",
    ),
    "scaling between bounds that exclude each other": (
        "gateway",
        {"autoscaling.enabled": "true", "autoscaling.minReplicas": "30"},
        "minReplicas is 30, and maxReplicas is 20",
    ),
    "scaling down faster than a drain": (
        "gateway",
        {"autoscaling.enabled": "true", "autoscaling.scaleDownStabilizationSeconds": "60"},
        "is 60; it must be at least a whole drain, 85",
    ),
    "an unknown autoscaler": (
        "gateway",
        {"autoscaling.enabled": "true", "autoscaling.kind": "hpa-and-keda"},
        "autoscaling.kind must be one of",
    ),
    "KEDA without a number of clients": (
        "gateway",
        {"autoscaling.enabled": "true", "autoscaling.kind": "keda"},
        "set autoscaling.targetConnections",
    ),
    "KEDA that asks for series nobody collects": (
        "gateway",
        {
            "autoscaling.enabled": "true",
            "autoscaling.kind": "keda",
            "autoscaling.targetConnections": "5000",
        },
        "set metrics.serviceMonitor.enabled, or autoscaling.keda.query",
    ),
    "a canary of one pod": (
        "gateway",
        {"canary.enabled": "true", "replicas": "1", "metrics.serviceMonitor.enabled": "true"},
        "needs at least 2 replicas",
    ),
    "a canary that nobody measures": (
        "gateway",
        {"canary.enabled": "true"},
        "canary.analysis tells new pods from old ones by their label",
    ),
    "a canary that cannot be told from the rest": (
        "gateway",
        {
            "canary.enabled": "true",
            "metrics.serviceMonitor.enabled": "true",
            "metrics.serviceMonitor.podTargetLabels": "{}",
        },
        "rollouts-pod-template-hash in podTargetLabels",
    ),
    "two writers of one product": (
        "ingestor",
        {
            "productSets[0].name": "a",
            "productSets[0].products": "{BTC-USD,ETH-USD}",
            "productSets[1].name": "b",
            "productSets[1].products": "{SOL-USD,BTC-USD}",
        },
        "BTC-USD is in a and in b",
    ),
    "two product sets of one name": (
        "ingestor",
        {
            "productSets[0].name": "a",
            "productSets[0].products": "{BTC-USD}",
            "productSets[1].name": "a",
            "productSets[1].products": "{SOL-USD}",
        },
        "two are named a",
    ),
    "shards that nobody stores": (
        "snapshotter",
        {"shardRanges": "{0-3,4-6}"},
        "covers 7 of 8 shards",
    ),
    "snapshotters that share and divide": (
        "snapshotter",
        {"shardRanges": "{0-3,4-7}", "replicas": "2"},
        "replicas and shardRanges",
    ),
    "snapshotters without a log": (
        "snapshotter",
        {"replicas": "9"},
        "replicas is 9, and SHARD_COUNT is 8",
    ),
    "two identities for NATS": (
        "normalizer",
        {"natsCredsSecret": "creds", "natsAuthSecret": "auth"},
        "natsCredsSecret is creds and natsAuthSecret is auth",
    ),
    "a broker inside each pod": (
        "normalizer",
        {"settings.BROKER_KIND": "memory"},
        "not shared by pods",
    ),
    "services that shard differently": (
        UMBRELLA,
        {"normalizer.settings.SHARD_COUNT": "4"},
        "normalizer.settings.SHARD_COUNT: it must be the same for all services",
    ),
    "a NATS that nobody uses": (
        UMBRELLA,
        {"global.settings.BROKER_KIND": "redis"},
        "nobody would use that NATS",
    ),
    "a monitor of a NATS without an exporter": (
        "nats",
        {"metrics.serviceMonitor.enabled": "true"},
        "set metrics.exporter.enabled",
    ),
    "a lame duck too short for the server": (
        "nats",
        {"lameDuckSeconds": "10"},
        "greater than or equal to 30",
    ),
}


@pytest.fixture(scope="module")
def refusals(workspace: Workspace) -> dict[str, str]:
    """What helm says in each case; empty where it rendered."""

    def attempt(case: tuple[str, dict[str, str], str]) -> str:
        try:
            workspace.render(case[0], settings=case[1])
        except HelmFailed as failed:
            return failed.output
        return ""

    with ThreadPoolExecutor() as pool:
        return dict(zip(REFUSED, pool.map(attempt, REFUSED.values()), strict=True))


@pytest.mark.parametrize("name", REFUSED)
def test_the_charts_refuse(refusals: dict[str, str], name: str) -> None:
    _, _, message = REFUSED[name]
    assert re.search(message, refusals[name], re.DOTALL), refusals[name] or "it was rendered"


def test_every_guard_of_every_chart_is_tried(
    workspace: Workspace, refusals: dict[str, str]
) -> None:
    said = "\n".join(refusals.values())
    guards = [
        text
        for file in workspace.root.glob("*/*/templates/*")
        if file.suffix in (".tpl", ".yaml")
        for text in re.findall(r'fail (?:\(printf )?"([^"]*)"', file.read_text())
    ]
    assert len(guards) >= 20
    for text in guards:
        words = map(re.escape, re.split(r"%[ds]", text))
        assert re.search(".*".join(words), said), text
