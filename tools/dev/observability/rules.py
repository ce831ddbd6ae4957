"""The alerts of all charts: one plain rules file, and the page for whoever is on call.

An alert is written in `helm/<service>/alerts.yaml` and explained in `docs/runbooks/`. From these
follow `deploy/prometheus/rules.yaml`, for a Prometheus without the operator, and the page.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from tools.dev.charts.workspace import ROOT, SERVICES

RULES = "deploy/prometheus/rules.yaml"
RUNBOOKS = "docs/runbooks"
ON_CALL = "docs/operations/alerts.md"
# What the pages say beside their tables.
PAGES = yaml.safe_load(Path(__file__).with_name("pages.yaml").read_text())
_HEAD = (
    "# Made from helm/*/alerts.yaml by `make dashboards`; change it there.\n"
    "# The same alerts reach a cluster as PrometheusRule objects.\n"
)


def alerts(service: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load((ROOT / f"helm/{service}/alerts.yaml").read_text())
    return found


def files() -> dict[str, str]:
    """The rules file and the page, by their paths in the repository."""
    groups = [{"name": service, "rules": alerts(service)} for service in SERVICES]
    text = yaml.safe_dump({"groups": groups}, sort_keys=False, width=100, allow_unicode=True)
    return {RULES: _HEAD + text, ON_CALL: PAGES["alerts"] + _on_call()}


def _on_call() -> str:
    """A table of all alerts, those that wake somebody first."""
    found = [
        (rule["alert"], rule["labels"]["severity"])
        for service in SERVICES
        for rule in alerts(service)
    ]
    found.sort(key=lambda one: one[1] != "critical")
    return "".join(
        f"| [{name}](../runbooks/{name}.md) | {severity} | {_means(name)} |\n"
        for name, severity in found
    )


def _means(alert: str) -> str:
    """The first sentence of its page."""
    page = (ROOT / RUNBOOKS / f"{alert}.md").read_text()
    meaning = page.partition("## Meaning\n")[2].strip().partition("\n")[0]
    return re.split(r"(?<=[.]) (?=[A-Z])", meaning)[0]
