"""What users add themselves reaches the pods as they wrote it, names of the release filled in."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tools.dev.charts.kubernetes import pods, validate, violations
from tools.dev.charts.workspace import CHARTS, SERVICES, UMBRELLA, Object, Workspace

pytestmark = pytest.mark.charts

TEXT = """
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ .Release.Name }}-text
{{- if eq .Release.Service "Helm" }}
data: {a: b}
{{- end }}
"""
EXTRAS = {
    "extraEnv": [
        {"name": "RELEASE", "value": "{{ .Release.Name }}"},
        {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
    ],
    "extraEnvFrom": [{"secretRef": {"name": "{{ .Release.Name }}-more", "optional": True}}],
    "extraVolumes": [{"name": "ca", "configMap": {"name": "{{ .Release.Name }}-ca"}}],
    "extraVolumeMounts": [{"name": "ca", "mountPath": "/etc/ca", "readOnly": True}],
    "extraManifests": [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "{{ .Release.Name }}-ca", "namespace": "{{ .Release.Namespace }}"},
            "data": {"chart": "{{ .Chart.Name }}"},
        },
        TEXT,
    ],
}


@pytest.mark.parametrize("chart", CHARTS)
def test_extras_reach_the_pods_and_the_release(
    workspace: Workspace, tmp_path: Path, chart: str
) -> None:
    file = tmp_path / "extra.yaml"
    file.write_text(yaml.safe_dump(EXTRAS))
    objects = workspace.render(chart, file, release="md")
    assert validate(objects, "1.33").problems == []
    maps = {item["metadata"]["name"]: item for item in objects if item["kind"] == "ConfigMap"}
    assert maps["md-ca"]["data"] == {"chart": chart}
    assert maps["md-ca"]["metadata"]["namespace"] == "market-data"
    assert maps["md-text"]["data"] == {"a": "b"}
    running = [pod for pod in pods(objects) if not pod.owner.startswith("Pod/")]
    assert running
    for pod in running:
        container = pod.containers[0]
        assert {"name": "RELEASE", "value": "md"} in container["env"]
        assert container["env"][-1]["valueFrom"]["fieldRef"] == {"fieldPath": "spec.nodeName"}
        # The last source wins, so the user's own comes last.
        assert container["envFrom"][-1]["secretRef"]["name"] == "md-more"
        assert {"name": "ca", "mountPath": "/etc/ca", "readOnly": True} in container["volumeMounts"]
        assert {"name": "ca", "configMap": {"name": "md-ca"}} in pod.spec["volumes"]
        assert violations(pod) == []


def test_the_umbrella_takes_manifests_too(workspace: Workspace, tmp_path: Path) -> None:
    file = tmp_path / "extra.yaml"
    file.write_text(yaml.safe_dump({"extraManifests": EXTRAS["extraManifests"]}))
    objects = workspace.render(UMBRELLA, file, release="md")
    names = {item["metadata"]["name"] for item in objects if item["kind"] == "ConfigMap"}
    assert {"md-ca", "md-text"} <= names


@pytest.mark.parametrize("chart", SERVICES)
def test_a_way_out_of_ones_own_is_added_to_the_policy(
    workspace: Workspace, tmp_path: Path, chart: str
) -> None:
    rule = {"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{"port": 5000}]}
    file = tmp_path / "extra.yaml"
    file.write_text(yaml.safe_dump({"networkPolicy": {"extraEgress": [rule]}}))
    objects = workspace.render(chart, file)
    (policy,) = (item for item in objects if item["kind"] == "NetworkPolicy")
    assert policy["spec"]["egress"][-1] == rule


# What production asks for beside the keys.
PRODUCTION = {
    "settings": {"ENVIRONMENT": "production", "NATS_URLS": "tls://nats:4222"},
    "natsCredsSecret": "creds",
}


def test_production_keys_may_come_by_extras(workspace: Workspace, tmp_path: Path) -> None:
    """The guard against an open gateway sees every way in which the keys can come."""
    ways: tuple[Object, ...] = (
        {"existingSecret": "keys"},
        {"extraEnvFrom": [{"secretRef": {"name": "keys"}}]},
        {
            "extraEnv": [
                {
                    "name": "AUTH_API_KEYS",
                    "valueFrom": {"secretKeyRef": {"name": "keys", "key": "k"}},
                }
            ]
        },
    )
    for number, way in enumerate(ways):
        file = tmp_path / f"{number}.yaml"
        file.write_text(yaml.safe_dump({**way, **PRODUCTION}))
        assert workspace.render("gateway", file)
