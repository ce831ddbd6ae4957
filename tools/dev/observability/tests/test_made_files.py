"""Dashboards, rules, runbooks and the table of metrics, as far as no Prometheus is needed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tools.dev.charts.workspace import ROOT, SERVICES
from tools.dev.generated import outdated
from tools.dev.observability import metrics_table
from tools.dev.observability.__main__ import expected
from tools.dev.observability.dashboards import FILES, FOLDERS, queries
from tools.dev.observability.rules import RULES, RUNBOOKS, alerts

SUFFIXES = {"histogram": ("_bucket", "_sum", "_count")}
OTHERS = {"process_cpu_seconds_total", "process_resident_memory_bytes"}
SECTIONS = ["Meaning", "First look", "Likely causes", "Safe action"]

ALERTS: dict[str, dict[str, Any]] = {
    rule["alert"]: rule for service in SERVICES for rule in alerts(service)
}


def exported() -> dict[str, set[str]]:
    """Names that a query may use, each with its labels."""
    found: dict[str, set[str]] = {}
    for collector in metrics_table.registries().values():
        for row in metrics_table.rows(collector):
            for suffix in SUFFIXES.get(row.kind, ("",)):
                labels = {*row.labels, *(["le"] if suffix == "_bucket" else [])}
                found.setdefault(row.name + suffix, set()).update(labels)
    return found


def test_what_is_made_from_code_is_what_the_code_gives() -> None:
    assert outdated(expected()) == [], "run `make dashboards`"


def test_every_label_is_bounded() -> None:
    labels = {
        label
        for collector in metrics_table.registries().values()
        for row in metrics_table.rows(collector)
        for label in row.labels
    }
    assert labels == metrics_table.BOUNDS.keys()


def test_every_metric_of_the_contract_is_exported() -> None:
    contract = """
        md_seq_gap_total md_resync_total md_resync_seconds md_ingest_messages_total
        md_ingest_connected md_ingest_reconnect_total md_ingest_last_message_age_seconds
        md_ingest_queue_depth md_messages_dropped_total md_normalized_total md_invalid_total
        md_shard_lag_messages md_shard_lag_seconds md_snapshot_write_seconds_count
        md_snapshot_lag_seconds_count md_snapshot_write_errors_total md_archive_batches_total
        md_archive_bytes_total md_ws_connections md_ws_subscriptions md_ws_sent_total
        md_ws_conflated_total md_ws_slow_total md_ws_closed_total md_ws_queue_bytes
        md_ws_snapshot_seconds_count md_ws_backfill_seconds_count md_ws_backfill_ticks_total
        md_ws_rate_limited_total md_end_to_end_seconds_count md_broker_publish_seconds_count
        md_circuit_state
    """
    names = {name.removesuffix("_count") for name in exported()}
    assert {name.removesuffix("_count") for name in contract.split()} - names == set()


def test_names_say_the_unit_and_counters_end_in_total() -> None:
    for collector in metrics_table.registries().values():
        for row in metrics_table.rows(collector):
            assert (row.kind == "counter") == row.name.endswith("_total"), row.name
            assert row.kind != "histogram" or row.unit == "seconds", row.name


def test_buckets_reach_from_below_a_millisecond_to_seconds() -> None:
    for collector in metrics_table.registries().values():
        for family in collector.collect():
            bounds = sorted({float(s.labels["le"]) for s in family.samples if "le" in s.labels})
            if bounds:
                assert bounds[0] <= 0.001, family.name
                assert bounds[-2] >= 10, family.name


@pytest.mark.parametrize("title", queries())
def test_a_panel_asks_for_what_is_exported(title: str) -> None:
    expression = queries()[title]
    known = exported()
    names = re.findall(r"\b((?:md|process)_\w+)", expression)
    assert names
    for name in names:
        assert name in known or name in OTHERS, f"{name} is not exported"
    asked = {
        label.strip()
        for group in re.findall(r"by \(([^)]*)\)", expression)
        for label in group.split(",")
    } | set(re.findall(r"(\w+)(?:=~|!=|=)\"", expression))
    labels = set().union(*(known.get(name, set()) for name in names))
    assert asked - labels - {"namespace", "instance", "job", ""} == set()


def test_dashboards_are_whole_and_lead_to_each_other() -> None:
    uids = {dashboard.uid for dashboard in FILES.values()}
    for folder in FOLDERS:
        for name, dashboard in FILES.items():
            board = json.loads((ROOT / folder / f"{name}.json").read_text())
            links = {link["url"].removeprefix("/d/") for link in board["links"]}
            assert links == uids - {dashboard.uid}
            for panel in board["panels"]:
                assert panel["description"]
                assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
            used = set(re.findall(r"\$(?!__)\{?(\w+)", json.dumps(board)))
            assert used <= {one["name"] for one in board["templating"]["list"]}


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_what_to_do_and_has_its_page(name: str) -> None:
    annotations = ALERTS[name]["annotations"]
    assert annotations.keys() == {"summary", "action", "runbook_url"}
    assert annotations["runbook_url"] == f"{RUNBOOKS}/{name}.md"
    page = (ROOT / annotations["runbook_url"]).read_text()
    assert page.startswith(f"# {name}\n")
    assert re.findall(r"^## (.*)$", page, re.MULTILINE) == SECTIONS


def test_no_page_is_left_of_an_alert_that_is_gone() -> None:
    assert {page.stem for page in (ROOT / RUNBOOKS).glob("*.md")} == ALERTS.keys()


def test_variables_that_runbooks_name_exist() -> None:
    settings = {
        name
        for service in SERVICES
        for name in (ROOT / f"helm/{service}/settings.txt").read_text().split()
    }
    for page in (ROOT / RUNBOOKS).glob("*.md"):
        for name in re.findall(r"`([A-Z][A-Z0-9]*_[A-Z0-9_]+)`", page.read_text()):
            assert name in settings, f"{page.name}: {name}"


@pytest.fixture
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail("CI has to have promtool: Debian's package `prometheus`")
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus)")
    return found


def run(*command: str, cwd: Path = ROOT) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_alerts_fire_when_they_should_and_not_before(promtool: str) -> None:
    run(promtool, "check", "rules", RULES)
    run(promtool, "test", "rules", "deploy/prometheus/tests/alerts.yaml")


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    cases = yaml.safe_load((ROOT / "deploy/prometheus/tests/alerts.yaml").read_text())
    fires: dict[bool, set[str]] = {True: set(), False: set()}
    for test in cases["tests"]:
        for case in test["alert_rule_test"]:
            fires[bool(case["exp_alerts"])].add(case["alertname"])
    assert fires[True] == ALERTS.keys()
    assert fires[False] == ALERTS.keys()


def test_every_query_of_every_panel_parses(promtool: str, tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{number}", "expr": expression}
        for number, expression in enumerate(queries().values())
    ]
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    run(promtool, "check", "rules", str(file))
