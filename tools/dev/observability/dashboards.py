"""The three Grafana dashboards. `python -m tools.dev.observability --write` renders them.

Each answers one question from top to bottom: first a row of figures that are green or not, then
the curves that say why. Variables narrow every panel down.
"""

from __future__ import annotations

from tools.dev.observability.data_dashboard import DATA
from tools.dev.observability.gateway_dashboard import GATEWAY
from tools.dev.observability.pipeline_dashboard import PIPELINE

FILES = {"is-the-data-good": DATA, "gateway": GATEWAY, "pipeline": PIPELINE}
# Where they are read: by compose's Grafana, and by the chart's ConfigMap.
FOLDERS = ("deploy/grafana/dashboards", "charts/market-data-fanout/dashboards")


def files() -> dict[str, str]:
    """Every rendered file, by its path in the repository."""
    return {
        f"{folder}/{name}.json": dashboard.render(
            [one for one in FILES.values() if one is not dashboard]
        )
        for folder in FOLDERS
        for name, dashboard in FILES.items()
    }


def queries() -> dict[str, str]:
    """Every panel's queries with all variables at "All" and Grafana's own ones filled in."""
    found = {}
    for name, dashboard in FILES.items():
        for panel in dashboard.panels:
            for number, (expression, _) in enumerate(panel.queries):
                plain = expression.replace("$__rate_interval", "1m").replace("$__range", "15m")
                for variable in ("namespace", "channel", "product", "shard"):
                    plain = plain.replace(f"${variable}", ".*")
                found[f"{name}: {panel.title} [{number}]"] = plain
    return found
