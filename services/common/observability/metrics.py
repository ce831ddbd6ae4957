"""What all services' metrics share: where they are kept, their buckets, their bounds.

Each service has a registry of its own, so that two of them can live in one process. Durations are
seconds, sizes bytes, ages seconds; a name says its unit. Label values come from configuration
(venue, channel, product, shard) or from code (everything else), never from what a peer sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import product
from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.common.clock import now_us

if TYPE_CHECKING:
    from services.common.observability.health import Health

# What happens inside one process, from a tenth of a millisecond on.
FAST_SECONDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0),
)
# What includes another machine's disk.
STORE_SECONDS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)

# Where in the flow something was seen: what the venue sent, or one of our own logs. Metrics that
# several services have carry it, so that a sum over services does not mix them unasked.
STAGE_VENUE = "venue"
STAGE_RAW = "raw_log"
STAGE_TICK = "tick_log"


def new_registry() -> CollectorRegistry:
    """A registry that also tells of the process itself (CPU, memory, descriptors, GC)."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


def makers(
    registry: CollectorRegistry,
) -> tuple[partial[Counter], partial[Gauge], partial[Histogram]]:
    """`Counter`, `Gauge` and `Histogram`, each making its metrics on `registry`."""
    return (
        partial(Counter, registry=registry),
        partial(Gauge, registry=registry),
        partial(Histogram, registry=registry),
    )


def retention_gauge(registry: CollectorRegistry) -> Gauge:
    """For a service that watches logs (`services.common.stream.retention`)."""
    return Gauge(
        "md_log_retention_cut",
        "1 while a log drops records before their time, as its size is at its bound.",
        ["log"],
        registry=registry,
    )


# Of the services of which several may have the same work (`services.common.lines`).
LINE_ACTIVE = ("md_line_active", "1 on the line that works, 0 on one that stands by.")


def storing_metrics(
    registry: CollectorRegistry, stage: str, measured: str
) -> tuple[Histogram, Gauge]:
    """For a service that publishes: how long that takes (`measured` from where), and what waits."""
    publish_seconds = Histogram(
        "md_broker_publish_seconds", measured, ["stage"], buckets=FAST_SECONDS, registry=registry
    )
    unconfirmed = Gauge(
        "md_broker_unconfirmed_seconds",
        "How long the oldest record given to the broker has waited to be stored; 0 for none.",
        ["stage"],
        registry=registry,
    )
    return publish_seconds.labels(stage), unconfirmed.labels(stage)


def prepare(metric: Counter, *values: Iterable[str]) -> None:
    """Show every combination of these label values as 0 from the start.

    Prometheus sees no increase in a series that begins with its first event, so an alert on a rare
    counter would miss the first time.
    """
    for labels in product(*values):
        metric.labels(*labels)


class Bounded:
    """Lets the first `limit` values of a label through; every further one becomes `other`.

    For values that a peer can choose, however unlikely it is that one does.
    """

    def __init__(self, limit: int, known: Iterable[str] = ()) -> None:
        self._limit = limit
        self._seen = set(known)

    def __call__(self, value: str) -> str:
        if value in self._seen:
            return value
        if len(self._seen) >= self._limit:
            return "other"
        self._seen.add(value)
        return value


class HealthCollector(Collector):
    """Readiness as metrics, so that one look at Prometheus says what `/readyz` says."""

    def __init__(self, health: Health) -> None:
        self._health = health

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily(
            "md_check_up", "1 while a readiness check holds, 0 while not.", labels=("check",)
        )
        for_s = GaugeMetricFamily(
            "md_check_since_seconds", "How long a readiness check has been so.", labels=("check",)
        )
        now = now_us()
        for name, check in self._health.checks.items():
            up.add_metric((name,), float(check.reason is None))
            for_s.add_metric((name,), max(0, now - check.since) / 1e6)
        yield from (up, for_s)


class Together(Collector):
    """Several collectors as one. A registry takes a name once, and a process may be read twice."""

    def __init__(self, *collectors: Collector) -> None:
        self._collectors = collectors

    def collect(self) -> Iterator[Metric]:
        for collector in self._collectors:
            yield from collector.collect()
