"""How late the event loop is, and a thread that says where it hangs.

Lag is how much later than asked a timer fires: while a callback runs, nothing else does. A loop
that hangs can answer no probe and count nothing, so a watchdog thread looks at it from outside and
logs, once for each hang, which line of the program it is in. Restarting is not its business: the
liveness probe, which gets no answer either, has the orchestrator do that.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog
from prometheus_client import CollectorRegistry

from services.common.observability.metrics import makers

log = structlog.get_logger(__name__)

PERIOD_S = 0.25
STUCK_S = 5.0
_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_FRAMES = 12
# Worst lags of this many looks: about a minute.
_WINDOW = 240


class LoopMetrics:
    """What is exported of the loop; made once for a registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        counter, gauge, histogram = makers(registry)
        self.lag = histogram(
            "md_event_loop_lag_seconds",
            "How much later than due a timer of the event loop fired.",
            buckets=_BUCKETS,
        )
        self.worst = gauge(
            "md_event_loop_lag_max_seconds", "The worst lag of about the last minute."
        )
        self.stuck = counter(
            "md_event_loop_stuck_total", f"Times the event loop did not turn for {STUCK_S:.0f} s."
        )


class Watchdog:
    """Judges a loop's heartbeats from another thread. Fed by `beat`, asked by `look`."""

    def __init__(self, now: float, stuck_s: float = STUCK_S) -> None:
        self._stuck_s = stuck_s
        self._beaten = now
        self._told = False

    def beat(self, now: float) -> None:
        """The loop turned."""
        self._beaten = now
        self._told = False

    def look(self, now: float) -> float | None:
        """For how long the loop has not turned, the first time that is too long; else None."""
        hung = now - self._beaten
        if hung < self._stuck_s or self._told:
            return None
        self._told = True
        return hung


@asynccontextmanager
async def watched_loop(
    metrics: LoopMetrics,
    *,
    period_s: float = PERIOD_S,
    stuck_s: float = STUCK_S,
    clock: Callable[[], float] = time.monotonic,
) -> AsyncIterator[None]:
    """Measure the running loop's lag, and have a thread watch it, while the block runs."""
    watchdog = Watchdog(clock(), stuck_s)
    ended = threading.Event()
    watcher = threading.Thread(
        target=_watch,
        args=(watchdog, metrics, threading.get_ident(), ended, min(period_s, stuck_s / 4), clock),
        name="loop-watchdog",
        daemon=True,
    )
    async with asyncio.TaskGroup() as group:
        probe = group.create_task(_probe(watchdog, metrics, period_s, clock), name="loop-lag")
        watcher.start()
        try:
            yield
        finally:
            probe.cancel()
            ended.set()


async def _probe(
    watchdog: Watchdog, metrics: LoopMetrics, period_s: float, clock: Callable[[], float]
) -> None:
    recent = [0.0] * _WINDOW
    number = 0
    while True:
        due = clock() + period_s
        await asyncio.sleep(period_s)
        now = clock()
        watchdog.beat(now)
        lag = max(0.0, now - due)
        recent[number % _WINDOW] = lag
        number += 1
        metrics.lag.observe(lag)
        metrics.worst.set(max(recent))


def _watch(
    watchdog: Watchdog,
    metrics: LoopMetrics,
    thread: int,
    ended: threading.Event,
    period_s: float,
    clock: Callable[[], float],
) -> None:
    while not ended.wait(period_s):
        hung = watchdog.look(clock())
        if hung is not None:
            frame = sys._current_frames().get(thread)  # noqa: SLF001 - documented, the only way
            where = traceback.format_stack(frame, _FRAMES) if frame is not None else []
            log.error("event_loop_stuck", for_s=round(hung, 1), stack="".join(where))
            # Last, so that who sees it counted finds it logged.
            metrics.stuck.inc()
