"""The Grafana dashboards: `dashboards/*.yaml` in, the JSON that Grafana provisions out.

Each answers one question from top to bottom: first a row of figures that are green or not, then
the curves that say why. Variables narrow every panel down. `python -m tools.dev.observability
--write` renders them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

_SOURCES = Path(__file__).with_name("dashboards")
_COMMON = msgspec.yaml.decode(Path(__file__).with_name("grafana.yaml").read_bytes())
# Where they are read: by compose's Grafana, and by the chart's ConfigMap.
FOLDERS = ("deploy/grafana/dashboards", "charts/market-data-fanout/dashboards")
_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
_WIDTH = 24
# Of a panel's `mappings`, in their order.
_COLORS = ("green", "blue", "yellow", "orange", "red")
# Words of a query that stand for label matchers.
_MATCHERS = {
    "ALL": 'namespace=~"$namespace"',
    "STREAM": 'channel=~"$channel",product=~"$product"',
    "CHANNEL": 'channel=~"$channel"',
}

Kind = Literal["timeseries", "stat", "table", "state-timeline", "heatmap"]


class Panel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`queries` are PromQL by legend; `thresholds` the values from which it is orange, and red."""

    title: str
    about: str
    queries: dict[str, str]
    unit: str = "short"
    kind: Kind = "timeseries"
    width: int = 12
    thresholds: tuple[int | float, int | float] | None = None
    mappings: tuple[str, ...] = ()

    def expressions(self) -> list[str]:
        """The queries as Prometheus takes them."""
        return [
            re.sub(r"\b(ALL|STREAM|CHANNEL)\b", lambda word: _MATCHERS[word[0]], query)
            for query in self.queries.values()
        ]


class Dashboard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`variables`: by name, the metric whose label of that name gives the values."""

    uid: str
    title: str
    about: str
    variables: dict[str, str]
    panels: tuple[Panel, ...]

    def render(self, others: Sequence[Dashboard]) -> str:
        """The JSON that Grafana provisions, with links to the others."""
        variables = {"namespace": "md_check_up", **self.variables}
        body = {
            "uid": self.uid,
            "title": self.title,
            "description": self.about,
            **_COMMON["dashboard"],
            "links": [
                {"type": "link", "title": one.title, "url": f"/d/{one.uid}", **_COMMON["link"]}
                for one in others
            ],
            "templating": {
                "list": [_COMMON["datasource"], *(_variable(*one) for one in variables.items())]
            },
            "panels": _placed(self.panels),
        }
        return json.dumps(body, indent=1) + "\n"


def _variable(name: str, metric: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": name.capitalize(),
        "type": "query",
        "datasource": _DATASOURCE,
        "query": {"query": f"label_values({metric}, {name})", "refId": name},
        **_COMMON["variable"],
    }


def _placed(panels: Sequence[Panel]) -> list[dict[str, Any]]:
    placed = []
    x = y = height = 0
    for number, panel in enumerate(panels, 1):
        tall = 4 if panel.kind == "stat" else 8
        if x + panel.width > _WIDTH:
            x, y, height = 0, y + height, 0
        position = {"h": tall, "w": panel.width, "x": x, "y": y}
        placed.append(_panel(number, panel, position))
        x, height = x + panel.width, max(height, tall)
    return placed


def _panel(number: int, panel: Panel, position: dict[str, int]) -> dict[str, Any]:
    instant = panel.kind in ("stat", "table")
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0}
    if panel.thresholds is not None:
        warn, bad = panel.thresholds
        colors = {"green": None, "orange": warn, "red": bad}
        steps = [{"color": color, "value": value} for color, value in colors.items()]
        defaults["thresholds"] = {"mode": "absolute", "steps": steps}
        defaults["color"] = {"mode": "thresholds"}
    defaults |= _COMMON["defaults"].get(panel.kind, {})
    if panel.mappings:
        options = {
            str(value): {"text": text, "color": _COLORS[value], "index": value}
            for value, text in enumerate(panel.mappings)
        }
        defaults["mappings"] = [{"type": "value", "options": options}]
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": _DATASOURCE,
        "gridPos": position,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": _COMMON["options"].get(panel.kind, {}),
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "expr": expression,
                "legendFormat": legend,
                "instant": instant,
                "range": not instant,
                "exemplar": "_bucket" in expression,
                "datasource": _DATASOURCE,
                **({"format": "table"} if panel.kind == "table" else {}),
            }
            for index, (legend, expression) in enumerate(
                zip(panel.queries, panel.expressions(), strict=True)
            )
        ],
    }


FILES = {
    name: msgspec.yaml.decode((_SOURCES / f"{name}.yaml").read_bytes(), type=Dashboard)
    for name in ("is-the-data-good", "gateway", "pipeline")
}


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
            for number, expression in enumerate(panel.expressions()):
                plain = expression.replace("$__rate_interval", "1m").replace("$__range", "15m")
                for variable in ("namespace", "channel", "product", "shard"):
                    plain = plain.replace(f"${variable}", ".*")
                found[f"{name}: {panel.title} [{number}]"] = plain
    return found
