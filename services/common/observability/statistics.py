"""The line of figures that every service logs now and then, read from its own metrics.

`Statistics` is fed with samples and answers what the line says; `report` alone waits and asks.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Literal, NamedTuple

import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from services.common.observability.event_loop import LoopMetrics, watched_loop

log = structlog.get_logger(__name__)

PERIOD_S = 30.0

# `rate`: of a counter, a second; `sum` and `max`: of a gauge over its labels; `mean_ms`: of a
# histogram's observations since the line before.
How = Literal["rate", "sum", "max", "mean_ms"]


class Figure(NamedTuple):
    """One field of the line: which metric it is made from, and how."""

    metric: str
    how: How


class Statistics:
    """One service's line; `figures` by the field's name."""

    def __init__(self, figures: Mapping[str, Figure]) -> None:
        self._figures = figures
        self._before: dict[str, float] = {}
        self._at: float | None = None

    def line(self, families: Iterable[Metric], now: float) -> dict[str, float]:
        """The fields of this line; `now` in seconds of a clock that does not go back.

        Rates and means are of the time since the call before; the first call knows none.
        """
        found: dict[str, list[float]] = {}
        for family in families:
            for sample in family.samples:
                found.setdefault(sample.name, []).append(sample.value)
        fields: dict[str, float] = {}
        after: dict[str, float] = {}
        passed = None if self._at is None else now - self._at
        for name, (metric, how) in self._figures.items():
            if how == "rate":
                total = after[metric] = sum(found.get(metric, ()))
                if passed:
                    fields[name] = round((total - self._before.get(metric, 0.0)) / passed, 1)
            elif how == "mean_ms":
                count = after[metric + "_count"] = sum(found.get(metric + "_count", ()))
                total = after[metric + "_sum"] = sum(found.get(metric + "_sum", ()))
                count -= self._before.get(metric + "_count", 0.0)
                if passed and count > 0:
                    spent = total - self._before.get(metric + "_sum", 0.0)
                    fields[name] = round(spent / count * 1000, 2)
            elif metric in found:
                values = found[metric]
                fields[name] = round(sum(values) if how == "sum" else max(values), 3)
        self._before, self._at = after, now
        return fields


async def report(
    registry: Collector,
    figures: Mapping[str, Figure],
    *,
    period_s: float = PERIOD_S,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Log `statistics` every `period_s` until cancelled."""
    statistics = Statistics(figures)
    statistics.line(registry.collect(), clock())
    while True:
        await asyncio.sleep(period_s)
        log.info("statistics", **statistics.line(registry.collect(), clock()))


@asynccontextmanager
async def observed(
    registry: CollectorRegistry, loop: LoopMetrics, figures: Mapping[str, Figure]
) -> AsyncIterator[None]:
    """What runs beside every service and only looks, while the block runs.

    The loop's lag, measured into `loop`, which is on `registry`, and its watchdog; the statistics
    line, made of `figures`.
    """
    async with watched_loop(loop), asyncio.TaskGroup() as group:
        reporting = group.create_task(report(registry, figures), name="statistics")
        try:
            yield
        finally:
            reporting.cancel()
