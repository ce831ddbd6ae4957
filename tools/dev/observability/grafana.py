"""Grafana dashboards as values, and how they become the JSON that Grafana provisions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
_WIDTH = 24
STREAM = 'channel=~"$channel",product=~"$product"'
CHANNEL = 'channel=~"$channel"'
ALL = 'namespace=~"$namespace"'

Kind = Literal["timeseries", "stat", "table", "state-timeline", "heatmap"]


@dataclass(frozen=True)
class Panel:
    """`queries` are (PromQL, legend); `thresholds` the values from which it is orange, and red."""

    title: str
    about: str
    queries: Sequence[tuple[str, str]]
    unit: str = "short"
    kind: Kind = "timeseries"
    width: int = 12
    thresholds: tuple[float, float] | None = None
    mappings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dashboard:
    """`variables` are (name, metric whose label of that name gives the values)."""

    uid: str
    title: str
    about: str
    variables: Sequence[tuple[str, str]]
    panels: Sequence[Panel] = field(default_factory=tuple)

    def render(self, others: Sequence[Dashboard]) -> str:
        """The JSON that Grafana provisions, with links to the others."""
        body = {
            "uid": self.uid,
            "title": self.title,
            "description": self.about,
            "tags": ["market-data-fanout"],
            "timezone": "utc",
            "schemaVersion": 39,
            "refresh": "10s",
            "time": {"from": "now-30m", "to": "now"},
            "graphTooltip": 1,
            "links": [
                {
                    "type": "link",
                    "title": one.title,
                    "url": f"/d/{one.uid}",
                    "includeVars": True,
                    "keepTime": True,
                }
                for one in others
            ],
            "templating": {"list": [_datasource(), *(_variable(*one) for one in self._all())]},
            "panels": _placed(self.panels),
        }
        return json.dumps(body, indent=1) + "\n"

    def _all(self) -> Sequence[tuple[str, str]]:
        return [("namespace", "md_check_up"), *self.variables]


def _datasource() -> dict[str, Any]:
    return {
        "name": "datasource",
        "label": "Data source",
        "type": "datasource",
        "query": "prometheus",
        "current": {"text": "Prometheus", "value": "prometheus"},
    }


def _variable(name: str, metric: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": name.capitalize(),
        "type": "query",
        "datasource": _DATASOURCE,
        "query": {"query": f"label_values({metric}, {name})", "refId": name},
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        # Also matches where Prometheus has no such label, as in compose.
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
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
        defaults["thresholds"] = {
            "mode": "absolute",
            "steps": [
                {"color": "green", "value": None},
                {"color": "orange", "value": warn},
                {"color": "red", "value": bad},
            ],
        }
        defaults["color"] = {"mode": "thresholds"}
    if panel.kind == "timeseries":
        defaults["color"] = {"mode": "palette-classic"}
        defaults["custom"] = {"lineWidth": 1, "fillOpacity": 8, "showPoints": "never"}
    if panel.mappings:
        colors = ("green", "blue", "yellow", "orange", "red")
        defaults["mappings"] = [
            {
                "type": "value",
                "options": {
                    str(value): {"text": text, "color": colors[value], "index": value}
                    for value, text in enumerate(panel.mappings)
                },
            }
        ]
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": _DATASOURCE,
        "gridPos": position,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": _options(panel.kind),
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
            for index, (expression, legend) in enumerate(panel.queries)
        ],
    }


def _options(kind: Kind) -> dict[str, Any]:
    if kind == "stat":
        return {"colorMode": "background", "reduceOptions": {"calcs": ["lastNotNull"]}}
    if kind == "timeseries":
        return {
            "legend": {"showLegend": True, "displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    return {}


def quantile(
    share: float, metric: str, by: str, matchers: str, over: str = "$__rate_interval"
) -> str:
    """A quantile of a histogram, for each value of the labels `by` (may be empty)."""
    labels = f"{by}, le" if by else "le"
    inner = f"sum by ({labels}) (rate({metric}_bucket{{{matchers}}}[{over}]))"
    return f"histogram_quantile({share}, {inner})"


def rate_by(metric: str, by: str, matchers: str) -> str:
    """A counter's increase a second."""
    return f"sum by ({by}) (rate({metric}{{{matchers}}}[$__rate_interval]))"


def increase_by(metric: str, by: str, matchers: str) -> str:
    """A counter's increase over the chosen time range."""
    return f"sum by ({by}) (increase({metric}{{{matchers}}}[$__range]))"
