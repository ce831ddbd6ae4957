"""What runs beside every service and only looks: loop lag, its watchdog, the statistics line."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from prometheus_client import CollectorRegistry

from services.common.observability import statistics
from services.common.observability.event_loop import LoopMetrics, watched_loop
from services.common.observability.statistics import Figure


@asynccontextmanager
async def observed(
    registry: CollectorRegistry, loop: LoopMetrics, figures: Mapping[str, Figure]
) -> AsyncIterator[None]:
    """Look while the block runs. `loop` is on `registry`; `figures` are the statistics line's."""
    async with watched_loop(loop), asyncio.TaskGroup() as group:
        reporting = group.create_task(statistics.report(registry, figures), name="statistics")
        try:
            yield
        finally:
            reporting.cancel()
