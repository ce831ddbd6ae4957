from __future__ import annotations

import time

from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from services.common.observability.event_loop import LoopMetrics, Watchdog, watched_loop
from services.common.testing.waiting import eventually


def test_a_hang_is_told_once_and_again_only_after_the_loop_turned() -> None:
    watchdog = Watchdog(now=0.0, stuck_s=5.0)
    assert watchdog.look(4.9) is None
    assert watchdog.look(5.5) == 5.5
    assert watchdog.look(9.0) is None
    watchdog.beat(10.0)
    assert watchdog.look(14.0) is None
    assert watchdog.look(15.0) == 5.0


def stuck(registry: CollectorRegistry) -> float:
    return registry.get_sample_value("md_event_loop_stuck_total") or 0.0


class Hands:
    """A clock that moves only when told to: no hang but the test's own is ever seen."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def hang_here(registry: CollectorRegistry, clock: Hands) -> None:
    """Keep the loop from turning until the watchdog has seen it."""
    clock.now += 1.0
    deadline = time.monotonic() + 10
    while not stuck(registry) and time.monotonic() < deadline:
        time.sleep(0.005)  # blocks the loop: that is the hang


async def until_over(registry: CollectorRegistry, name: str, value: float) -> None:
    await eventually(lambda: (registry.get_sample_value(name) or 0) > value, f"{name} > {value}")


async def test_a_loop_that_hangs_is_named_by_a_thread_with_the_line_it_hangs_in() -> None:
    registry = CollectorRegistry()
    metrics = LoopMetrics(registry)
    clock = Hands()
    with capture_logs() as logs:
        async with watched_loop(metrics, period_s=0.01, stuck_s=0.5, clock=clock):
            await until_over(registry, "md_event_loop_lag_seconds_count", 0)
            hang_here(registry, clock)
            await until_over(registry, "md_event_loop_lag_max_seconds", 0.9)
    (event,) = [entry for entry in logs if entry["event"] == "event_loop_stuck"]
    assert "hang_here" in event["stack"]
    assert event["for_s"] == 1.0
    assert stuck(registry) == 1
    assert (registry.get_sample_value("md_event_loop_lag_seconds_count") or 0) > 0
