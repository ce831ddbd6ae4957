"""What helm tells after an installation: it names what is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tools.dev.charts.workspace import CHARTS, UMBRELLA, Workspace

pytestmark = pytest.mark.charts

# A definition's name is known to all charts of a release, so each has one of its own.
READER = '{{ define "read.CHART" }}NOTES{{ end }}\n'
CARRIER = """
apiVersion: v1
kind: ConfigMap
metadata:
  name: read-CHART
data:
  notes: |
    {{- include "read.CHART" . | nindent 4 }}
"""


@pytest.fixture(scope="module")
def readable(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The charts with their notes in an object, since `helm template` does not show them."""
    copy = Workspace.copy(workspace.helm, tmp_path_factory.mktemp("notes"))
    for name in (*CHARTS, UMBRELLA):
        templates = copy.chart(name) / "templates"
        notes = (templates / "NOTES.txt").read_text()
        reader = READER.replace("CHART", name).replace("NOTES", notes)
        (templates / "_read.tpl").write_text(reader)
        (templates / "read.yaml").write_text(CARRIER.replace("CHART", name))
    copy.build()
    return copy


def notes_of(
    workspace: Workspace, chart: str, *files: Path | str, **settings: str
) -> tuple[str, set[str]]:
    """The notes, and every object as kubectl names it."""
    objects = workspace.render(chart, *files, settings=settings, release="md", namespace="feeds")
    (carrier,) = (item for item in objects if item["metadata"]["name"] == f"read-{chart}")
    names = {f"{item['kind'].lower()}/{item['metadata']['name']}" for item in objects}
    return carrier["data"]["notes"], names


@pytest.mark.parametrize("chart", [*CHARTS, UMBRELLA])
def test_notes_name_what_is_there_and_the_namespace(readable: Workspace, chart: str) -> None:
    notes, names = notes_of(readable, chart)
    assert "<nil>" not in notes
    assert "no value" not in notes
    named = set(re.findall(r"(svc|deployment|statefulset)/(\S+)", notes))
    named |= {("svc", host) for host in re.findall(r"(?:ws|nats)://([a-z][a-z-]*)", notes)}
    for kind, name in named - {("svc", "localhost")}:
        assert f"{kind.replace('svc', 'service')}/{name}" in names
    for command in re.findall(r"kubectl (.*)", notes):
        assert "-n feeds" in command or "namespace feeds" in command, command


def test_the_gateway_explains_how_it_goes_and_what_a_load_balancer_needs(
    readable: Workspace,
) -> None:
    plain, _ = notes_of(readable, "gateway")
    assert "up to 85 s" in plain
    assert "readiness-gate" not in plain
    behind, _ = notes_of(readable, "gateway", **{"loadBalancer.profile": "alb"})
    assert "kubectl label namespace feeds elbv2.k8s.aws/pod-readiness-gate-inject=enabled" in behind


def test_an_open_nats_and_an_open_gateway_are_said_to_be_open(readable: Workspace) -> None:
    notes, _ = notes_of(readable, UMBRELLA)
    assert "NATS takes everybody" in notes
    assert "open to everybody" in notes
    notes, _ = notes_of(readable, UMBRELLA, *readable.profile("staging"))
    assert "everybody" not in notes
    notes, _ = notes_of(readable, UMBRELLA, *readable.profile("production-rollouts"))
    assert "kubectl argo rollouts get rollout md-gateway -n feeds" in notes
