"""`docs/metrics.md`: every metric of every service, read from the objects that export it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from prometheus_client.registry import Collector

from services.common.observability.health import Health
from services.common.observability.metrics import HealthCollector
from services.common.subjects import CHANNELS
from services.gateway.metrics import FleetMetrics
from services.gateway.metrics import Metrics as GatewayMetrics
from services.ingestor.feed_metrics import FeedCollector
from services.ingestor.metrics import Metrics as IngestorMetrics
from services.normalizer.metrics import Metrics as NormalizerMetrics
from services.snapshotter.metrics import REGISTRY as SNAPSHOTTER
from tools.dev.observability.rules import PAGES

FILE = "docs/metrics.md"

_CHANNELS = ", ".join(f"`{channel}`" for channel in CHANNELS)
# What each label's values come from; nothing else may be a label.
BOUNDS = {name: bound.format(channels=_CHANNELS) for name, bound in PAGES["labels"].items()}
_UNITS = {"seconds": "seconds", "bytes": "bytes"}


@dataclass(frozen=True)
class Row:
    """One metric of one service."""

    name: str
    kind: str
    labels: tuple[str, ...]
    about: str

    @property
    def unit(self) -> str:
        """As the name says it; a name without a unit is a number of things, or a state."""
        words = self.name.removesuffix("_total").split("_")
        return _UNITS.get(words[-1], "1")


def registries() -> dict[str, Collector]:
    """What each service exports, made as the service makes it."""
    ingestor = IngestorMetrics()
    ingestor.registry.register(FeedCollector([], dict))
    found: dict[str, CollectorRegistry] = {
        "ingestor": ingestor.registry,
        "normalizer": NormalizerMetrics().registry,
        "snapshotter": SNAPSHOTTER,
        "gateway": GatewayMetrics().registry,
        "gateway, several processes": FleetMetrics().registry,
    }
    return {"every service": HealthCollector(Health("", "any")), **found}


def rows(collector: Collector) -> Iterator[Row]:
    """The metrics that are the platform's own."""
    labels = _labels(collector)
    for family in collector.collect():
        if not family.name.startswith("md_"):
            continue
        name = family.name + ("_total" if family.type == "counter" else "")
        known = labels.get(family.name, getattr(family, "_labelnames", ()))
        yield Row(name, family.type, tuple(known), family.documentation)


def _labels(collector: Collector) -> dict[str, tuple[str, ...]]:
    """Label names of metrics that may have no samples yet; the library tells them nowhere else."""
    if not isinstance(collector, CollectorRegistry):
        return {}
    names = collector._names_to_collectors  # noqa: SLF001 - see above
    return {
        name: tuple(metric._labelnames)  # noqa: SLF001 - see above
        for name, metric in names.items()
        if hasattr(metric, "_labelnames")
    }


def files() -> dict[str, str]:
    """The page, by its path in the repository."""
    loop = ("lag_seconds", "lag_max_seconds", "stuck_total")
    everywhere = {f"md_event_loop_{name}" for name in loop}
    lines = [f"| `{name}` | {bound} |" for name, bound in BOUNDS.items()]
    lines.append("")
    shared: dict[str, Row] = {}
    for service, collector in registries().items():
        found = {row.name: row for row in rows(collector)}
        if service == "every service":
            shared = found
            continue
        shared |= {name: found.pop(name) for name in everywhere & set(found)}
        lines += _section(service, found)
    lines += _section("every service", shared)
    return {FILE: PAGES["metrics"] + "\n".join(lines)}


def _section(title: str, found: dict[str, Row]) -> list[str]:
    return [
        f"## {title.capitalize()}",
        "",
        "| metric | type | unit | labels | meaning |",
        "|---|---|---|---|---|",
        *(
            f"| `{row.name}` | {row.kind} | {row.unit} | "
            f"{', '.join(f'`{label}`' for label in row.labels)} | {row.about} |"
            for row in sorted(found.values(), key=lambda row: row.name)
        ),
        "",
    ]
