"""The alerts of all charts: one plain rules file, and the page for whoever is on call.

An alert is written in `helm/<service>/alerts.yaml` and explained in `docs/runbooks/`. From these
follow `deploy/prometheus/rules.yaml`, for a Prometheus without the operator, and the page.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from tools.dev.charts.workspace import ROOT, SERVICES

RULES = "deploy/prometheus/rules.yaml"
RUNBOOKS = "docs/runbooks"
ON_CALL = "docs/operations/alerts.md"
_HEAD = (
    "# Made from helm/*/alerts.yaml by `make dashboards`; change it there.\n"
    "# The same alerts reach a cluster as PrometheusRule objects.\n"
)


_ON_CALL_HEAD = """# On call

Every alert leads to its page: what it means, where to look, likely causes, and what is safe to do.
First questions, in this order: is it one product, one feed or everything (dashboard "Is the data
good?")? Is the broker there? Is the venue (`GET /feeds` of the ingestor)? Nothing is lost by
looking first: restart pods only when a page says so.

*Critical*: clients see old data or none, or something was lost. *Warning*: it will come to that, or
it costs.

Made from `helm/*/alerts.yaml` and `docs/runbooks/` by `make dashboards`.

"""


def alerts(service: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load((ROOT / f"helm/{service}/alerts.yaml").read_text())
    return found


def files() -> dict[str, str]:
    """The rules file and the page, by their paths in the repository."""
    groups = [{"name": service, "rules": alerts(service)} for service in SERVICES]
    text = yaml.safe_dump({"groups": groups}, sort_keys=False, width=100, allow_unicode=True)
    return {RULES: _HEAD + text, ON_CALL: _ON_CALL_HEAD + _on_call()}


def _on_call() -> str:
    """A table of all alerts, those that wake somebody first."""
    found = [rule for service in SERVICES for rule in alerts(service)]
    found.sort(key=lambda rule: rule["labels"]["severity"] != "critical")
    lines = ["| alert | severity | means |", "|---|---|---|"]
    for rule in found:
        name, severity = rule["alert"], rule["labels"]["severity"]
        lines.append(f"| [{name}](../runbooks/{name}.md) | {severity} | {_means(name)} |")
    return "\n".join(lines) + "\n"


def _means(alert: str) -> str:
    """The first sentence of its page."""
    page = (ROOT / RUNBOOKS / f"{alert}.md").read_text()
    meaning = page.partition("## Meaning\n")[2].strip().partition("\n")[0]
    return re.split(r"(?<=[.]) (?=[A-Z])", meaning)[0]
