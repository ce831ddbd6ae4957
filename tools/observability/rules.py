"""The alerts of all charts as one plain rules file, for a Prometheus without the operator.

`helm/<service>/alerts.yaml` is where an alert is written; `deploy/prometheus/rules.yaml` follows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("ingestor", "normalizer", "snapshotter", "gateway")
RULES = "deploy/prometheus/rules.yaml"
RUNBOOKS = "docs/runbooks"
_HEAD = (
    "# Made from helm/*/alerts.yaml by `make dashboards`; change it there.\n"
    "# The same alerts reach a cluster as PrometheusRule objects.\n"
)


def alerts(service: str) -> list[dict[str, Any]]:
    """The alerts of one service's chart."""
    found: list[dict[str, Any]] = yaml.safe_load((ROOT / f"helm/{service}/alerts.yaml").read_text())
    return found


def files() -> dict[str, str]:
    """The rules file, by its path in the repository."""
    groups = [{"name": service, "rules": alerts(service)} for service in SERVICES]
    text = yaml.safe_dump({"groups": groups}, sort_keys=False, width=100, allow_unicode=True)
    return {RULES: _HEAD + text}
