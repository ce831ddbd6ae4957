from __future__ import annotations

import asyncio

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from structlog.testing import capture_logs

from services.common.observability.statistics import Figure, Statistics, report
from services.common.testing.waiting import eventually

FIGURES = {
    "per_s": Figure("md_a_total", "rate"),
    "all": Figure("md_a_total", "sum"),
    "worst": Figure("md_b", "max"),
    "took_ms": Figure("md_c_seconds", "mean_ms"),
    "unknown": Figure("md_nothing", "max"),
}


def test_the_line_has_rates_and_means_since_the_line_before() -> None:
    registry = CollectorRegistry()
    counter = Counter("md_a_total", "A.", ["x"], registry=registry)
    gauge = Gauge("md_b", "B.", ["x"], registry=registry)
    histogram = Histogram("md_c_seconds", "C.", registry=registry)
    counter.labels("1").inc(5)
    histogram.observe(9.0)
    statistics = Statistics(FIGURES)
    assert statistics.line(registry.collect(), 100.0) == {"all": 5.0}
    counter.labels("1").inc(20)
    counter.labels("2").inc(40)
    gauge.labels("1").set(1.5)
    gauge.labels("2").set(0.5)
    histogram.observe(0.010)
    histogram.observe(0.030)
    assert statistics.line(registry.collect(), 130.0) == {
        "per_s": 2.0,
        "all": 65.0,
        "worst": 1.5,
        "took_ms": 20.0,
    }
    # Nothing was observed since: a mean of nothing is not said.
    assert "took_ms" not in statistics.line(registry.collect(), 160.0)


async def test_it_is_logged_again_and_again_under_one_event_name() -> None:
    registry = CollectorRegistry()
    Counter("md_a_total", "A.", registry=registry).inc(3)
    with capture_logs() as logs:
        async with asyncio.TaskGroup() as tasks:
            reporting = tasks.create_task(report(registry, FIGURES, period_s=0.001))
            await eventually(lambda: len(logs) >= 2, "two lines")
            reporting.cancel()
    assert {entry["event"] for entry in logs} == {"statistics"}
    assert logs[0]["all"] == 3.0
