"""The checks themselves: that they see what they are there to see."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.charts.kubernetes import validate
from tools.charts.values import read_values
from tools.charts.workspace import Workspace

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
    monitor = {"apiVersion": "monitoring.coreos.com/v1", "kind": "ServiceMonitor", "metadata": {}}
    verdict = validate([monitor], "1.33")
    assert (verdict.checked, verdict.unknown) == (0, {"ServiceMonitor"})


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
