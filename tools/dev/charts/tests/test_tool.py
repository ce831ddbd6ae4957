"""The checks themselves: that they see what they are there to see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tools.dev.charts.kubernetes import validate
from tools.dev.charts.values import read_values
from tools.dev.charts.workspace import CHARTS, PROFILES, ROOT, UMBRELLA, Workspace, manifests

pytestmark = pytest.mark.charts


def test_validation_sees_an_unknown_field_and_a_wrong_type_and_names_the_object() -> None:
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "x"},
        "spec": {"ports": [{"port": "eighty"}], "selectors": {}},
    }
    problems = validate([service], "1.33").problems
    assert len(problems) == 2
    assert all(text.startswith("Service/x: spec") for text in problems)


def test_a_kind_without_a_schema_is_reported_and_not_counted_as_checked() -> None:
    probe = {"apiVersion": "monitoring.coreos.com/v1", "kind": "Probe", "metadata": {}}
    verdict = validate([probe], "1.33")
    assert (verdict.checked, verdict.unknown) == (0, {"Probe"})


@pytest.mark.parametrize(
    ("kind", "path", "problem"),
    [
        ("Rollout", "strategy.canary.stepz", "'stepz' was unexpected"),
        ("Rollout", "template.spec.container", "'container' was unexpected"),
        ("ScaledObject", "fallback.behaviour", "'behaviour' was unexpected"),
        ("AnalysisTemplate", "metrics.0.sucessCondition", "'sucessCondition' was unexpected"),
        ("ServiceMonitor", "endpoints.0.intervall", "'intervall' was unexpected"),
    ],
)
def test_a_misspelt_field_of_a_custom_resource_is_seen(
    workspace: Workspace, kind: str, path: str, problem: str
) -> None:
    files = workspace.profile("production-keda-rollouts")
    objects = workspace.render("market-data-fanout", *files)
    (item, *_) = (one for one in objects if one["kind"] == kind)
    assert validate([item], "1.33").problems == []
    where: Any = item["spec"]
    *parents, field = path.split(".")
    for step in parents:
        where = where[int(step) if step.isdigit() else step]
    where[field] = "x"
    assert problem in "\n".join(validate([item], "1.33").problems)


def test_values_know_their_comments_by_path(tmp_path: Path) -> None:
    file = tmp_path / "values.yaml"
    file.write_text("a:\n  # -- how many\n  b: 1\n  c: 2\n# -- not the next but one\n\nd: x\n")
    values = read_values(file)
    assert values.defaults == {"a": {"b": 1, "c": 2}, "d": "x"}
    assert values.comments == {"a.b": "how many"}


def test_the_umbrella_packs_what_the_charts_say_now(tmp_path: Path, workspace: Workspace) -> None:
    """A build leaves archives behind; the next one must not take them for the charts."""
    copy = Workspace.copy(workspace.helm, tmp_path)
    copy.build()
    notes = copy.chart("common") / "templates" / "_names.tpl"
    notes.write_text(notes.read_text().replace("part-of: market-data-fanout", "part-of: changed"))
    copy.build()
    parts = {
        item["metadata"]["labels"]["app.kubernetes.io/part-of"]
        for item in copy.render("market-data-fanout", options=("--skip-tests",))
    }
    assert parts == {"changed"}


def test_every_value_says_what_it_means(workspace: Workspace) -> None:
    for name in (*CHARTS, UMBRELLA):
        readme = (workspace.chart(name) / "README.md").read_text()
        rows = [line for line in readme.splitlines() if line.startswith("| `")]
        assert len(rows) > 10
        assert [row for row in rows if row.endswith("|  |")] == []


def test_the_plain_manifests_are_what_the_umbrella_renders(workspace: Workspace) -> None:
    rendered = {name: yaml.safe_load_all(text) for name, text in manifests(workspace).items()}
    written = {file.name: file.read_text() for file in (ROOT / "k8s").glob("*.yaml")}
    assert written.keys() == rendered.keys()
    for name, documents in rendered.items():
        assert list(yaml.safe_load_all(written[name])) == list(documents), name


def test_every_values_file_is_tried_and_explained(workspace: Workspace) -> None:
    written = {file.name for file in workspace.chart(UMBRELLA).glob("values-*.yaml")}
    tried = {one for values in PROFILES.values() for one in values}
    assert {one for one in tried if "=" not in one} == written
    readme = (ROOT / "helm" / "README.md").read_text()
    assert {file for file in written if f"`{file}`" not in readme} == set()
    assert {one for one in tried - written if one not in readme} == set()
