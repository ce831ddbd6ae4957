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

FILE = "docs/metrics.md"

# What each label's values come from; nothing else may be a label.
BOUNDS = {
    "venue": "configuration: the venues of the ingestors (one: `coinbase`)",
    "channel": ", ".join(f"`{channel}`" for channel in CHANNELS),
    "product": "configuration: `COINBASE_PRODUCTS`",
    "feed": "configuration: products / `PRODUCTS_PER_CONNECTION`",
    "shard": "configuration: `SHARD_COUNT`, or the ranges of the normalizers",
    "log": "configuration: `raw`, `invalid`, and `tick.0` to `tick.<SHARD_COUNT - 1>`",
    "stage": "`venue`, `raw_log`, `tick_log`: where in the flow it was seen",
    "cause": "code: what made a gap be noticed",
    "outcome": "code: how it ended",
    "reason": "code; of reconnects at most 32 values, then `other`",
    "answer": "code: how a product that no log holds was answered",
    "action": "code: `catch_up`, `recovered`, `lost`, `closed`",
    "scope": "code: `commands`, `product`, `connection`",
    "code": "code: the table of errors in [protocol.md](protocol.md)",
    "target": "code: the dependencies behind a breaker",
    "kind": "code: what is written or archived",
    "check": "code: the checks of `/readyz`; `shard-<n>` and `worker-<n>` by configuration",
}
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
    everywhere = {"md_event_loop_lag_seconds", "md_event_loop_lag_max_seconds"}
    everywhere.add("md_event_loop_stuck_total")
    lines = [
        "# Metrics",
        "",
        "Made from the code by `make dashboards`. Every service exports them at `/metrics`, with",
        "`process_*` and `python_*` beside them; exemplars (a trace id) come with OpenMetrics,",
        "which Prometheus asks for. What to look at first: [observability.md](observability.md).",
        "",
        "## Labels",
        "",
        "A label's values come from configuration or from code, never from what a peer sends.",
        "A gateway with `WEB_CONCURRENCY` above 1 gives all its metrics one more, `worker`: the",
        "number of the process, from 0 on.",
        "",
        "| label | values |",
        "|---|---|",
        *(f"| `{name}` | {bound} |" for name, bound in BOUNDS.items()),
        "",
    ]
    shared: dict[str, Row] = {}
    for service, collector in registries().items():
        found = {row.name: row for row in rows(collector)}
        if service == "every service":
            shared = found
            continue
        shared |= {name: found.pop(name) for name in everywhere & set(found)}
        lines += _section(service, found)
    lines += _section("every service", shared)
    return {FILE: "\n".join(lines)}


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
