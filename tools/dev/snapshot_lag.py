"""How far rows are behind their streams in the demo: `python -m tools.dev.snapshot_lag`.

Runs the whole stack on embedded servers with 50 products at about 500 ticks a second, and reads
`md_snapshot_lag_seconds` (from receiving a row's newest record to the row being durable) from the
snapshotter in four windows of 20 s.
"""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass
from pathlib import Path

import httpx
import uvloop
from prometheus_client.parser import text_string_to_metric_families

from tools.simulator.market.products import products_of
from tools.stack.options import StackOptions
from tools.stack.stack import Stack

_LAG = "md_snapshot_lag_seconds"
_TICKS = "md_normalized_total"
_ROWS = "md_snapshot_rows_total"
_WINDOW_S = 20.0
_WINDOWS = 4
# Buckets are summed over the channels, by upper bound in seconds.
Buckets = dict[float, float]


@dataclass(frozen=True)
class Reading:
    lag: Buckets
    ticks: float
    rows: float


def quantile(before: Buckets, after: Buckets, share: float) -> float:
    """Seconds below which `share` of the observations between two readings lie.

    Interpolated inside its bucket, as Prometheus does; nan when there were none.
    """
    counts = [(bound, after[bound] - before.get(bound, 0.0)) for bound in sorted(after)]
    total = counts[-1][1]
    if not total:
        return float("nan")
    low, below = 0.0, 0.0
    for bound, count in counts:
        if count >= share * total:
            if bound == float("inf"):
                return low
            return low + (bound - low) * (share * total - below) / (count - below)
        low, below = bound, count
    return low


async def _read(http: httpx.AsyncClient, stack: Stack) -> Reading:
    lag: Buckets = {}
    ticks = rows = 0.0
    for service in ("normalizer", "snapshotter"):
        text = (await http.get(f"{stack.url(service)}/metrics")).text
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == f"{_LAG}_bucket":
                    bound = float(sample.labels["le"])
                    lag[bound] = lag.get(bound, 0.0) + sample.value
                elif sample.name == _TICKS:
                    ticks += sample.value
                elif sample.name == _ROWS:
                    rows += sample.value
    return Reading(lag, ticks, rows)


async def _measure() -> None:
    with tempfile.TemporaryDirectory(prefix="mdf-lag-") as folder:
        options = StackOptions(
            products=products_of(50),
            run_dir=Path(folder),
            environment={"exchange": {"SIM_RATE": "550"}},
        )
        async with Stack(options) as stack, httpx.AsyncClient(timeout=10) as http:
            # Every stream's first row and book's first checkpoint are not what is measured.
            await asyncio.sleep(_WINDOW_S / 2)
            before = await _read(http, stack)
            for _ in range(_WINDOWS):
                await asyncio.sleep(_WINDOW_S)
                after = await _read(http, stack)
                p50, p99 = (1000 * quantile(before.lag, after.lag, q) for q in (0.5, 0.99))
                print(
                    f"{(after.ticks - before.ticks) / _WINDOW_S:.0f} ticks/s  "
                    f"{(after.rows - before.rows) / _WINDOW_S:.0f} rows/s  "
                    f"lag p50 {p50:.0f} ms  p99 {p99:.0f} ms",
                    flush=True,
                )
                before = after


if __name__ == "__main__":
    uvloop.run(_measure())
