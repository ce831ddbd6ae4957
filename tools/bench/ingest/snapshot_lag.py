"""How far rows are behind their streams: the whole stack with 50 products at about 500 ticks/s.

`md_snapshot_lag_seconds` (from receiving a row's newest record to the row being durable) is read
from the snapshotter in windows of 20 s, one a round.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from math import inf, nan
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tools.bench.registry import Run, bench
from tools.simulator.market.products import products_of
from tools.stack.options import StackOptions
from tools.stack.stack import Stack

_BUCKET = "md_snapshot_lag_seconds_bucket"
_COUNTED = ("md_normalized_total", "md_snapshot_rows_total")
_WINDOW_S = 20.0


@bench("snapshot-lag", on_request=True)
async def snapshot_lag(run: Run) -> None:
    """How far latest rows are behind: the stack at 50 products and 500 ticks/s."""
    window_s = 2.0 if run.quick else _WINDOW_S
    with tempfile.TemporaryDirectory(prefix="mdf-lag-") as folder:
        options = StackOptions(
            products=products_of(50),
            run_dir=Path(folder),
            environment={"exchange": {"SIM_RATE": "550"}},
        )
        async with Stack(options) as stack, httpx.AsyncClient(timeout=10) as http:
            # Every stream's first row and book's first checkpoint are not what is measured.
            await asyncio.sleep(window_s / 2)
            before = await _read(http, stack)
            for number in range(1, run.rounds + 1):
                await asyncio.sleep(window_s)
                after = await _read(http, stack)
                seen = Counter({name: after[name] - before[name] for name in after})
                ticks, rows = (seen[name] / window_s for name in _COUNTED)
                p50, p99 = (1000 * _quantile(seen, share) for share in (0.5, 0.99))
                run.note(
                    f"window {number}",
                    f"{ticks:.0f} ticks/s, {rows:.0f} rows/s, "
                    f"lag p50 {p50:.0f} ms, p99 {p99:.0f} ms",
                )
                before = after


async def _read(http: httpx.AsyncClient, stack: Stack) -> Counter[str | float]:
    """What was counted, by name; of the lag's buckets, over all channels, by bound in seconds."""
    found: Counter[str | float] = Counter()
    for service in ("normalizer", "snapshotter"):
        text = (await http.get(f"{stack.url(service)}/metrics")).text
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == _BUCKET:
                    found[float(sample.labels["le"])] += int(sample.value)
                elif sample.name in _COUNTED:
                    found[sample.name] += int(sample.value)
    return found


def _quantile(seen: Counter[str | float], share: float) -> float:
    """Seconds below which `share` of what was observed lies; interpolated, as Prometheus does."""
    low, below = 0.0, 0
    for bound in sorted(key for key in seen if isinstance(key, float)):
        if seen[inf] and seen[bound] >= share * seen[inf]:
            step = (share * seen[inf] - below) / (seen[bound] - below)
            return low if bound == inf else low + (bound - low) * step
        low, below = bound, seen[bound]
    return nan
