"""The one JSON line a demo ends with, and whether it went well. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from market_data_fanout_client.chain import ChainCounts

from tools.latency import LatencyHistogram
from tools.stack.gap import GapFigures
from tools.stack.options import StackOptions
from tools.stack.truth import Comparison


@dataclass
class Observation:
    """What was seen while the stack ran.

    Attributes:
        expected: channels on which ticks must have arrived.
        counts: of each channel, all clients added up.
        gaps: None when the ingestor could not be asked.
        truth: what the exchange beside the stack says to what a subscriber holds.
        failure: why the run ended early, if it did.
    """

    expected: Sequence[str]
    counts: dict[str, ChainCounts]
    clients: int
    latency: LatencyHistogram
    gaps: GapFigures | None = None
    truth: Comparison = field(default_factory=Comparison)
    duration_s: float = 0.0
    reconnects: int = 0
    errors: list[str] = field(default_factory=list)
    failure: str | None = None
    wants_gap: bool = False


def problems(seen: Observation) -> list[str]:
    """What keeps this run from having gone well; empty when nothing does."""
    found = []
    total = _total(seen)
    if total.unexplained:
        found.append(f"{total.unexplained} unexplained chain breaks")
    if seen.failure:
        # What did not come because of it is no problem of its own.
        return [seen.failure, *found]
    silent = [name for name in seen.expected if not seen.counts[name].applied]
    if silent:
        found.append(f"no ticks on {', '.join(silent)}")
    if seen.gaps is None:
        found.append("the ingestor's metrics could not be read")
    if seen.wants_gap and seen.gaps is not None:
        if not seen.gaps.detected:
            found.append("the gap that was made was not detected")
        elif seen.gaps.healed != seen.gaps.detected:
            found.append(f"{seen.gaps.detected} gaps detected, {seen.gaps.healed} healed")
    found += seen.truth.differences
    found += seen.errors
    return found


def summary(seen: Observation, products: Sequence[str], asked: StackOptions) -> dict[str, Any]:
    """The summary as a JSON object; `ok` is whether the process may exit with 0."""
    total = _total(seen)
    found = problems(seen)
    line: dict[str, Any] = {
        "ticks": total.applied,
        "clients": seen.clients,
        "gaps_detected": seen.gaps.detected if seen.gaps else 0,
        "gaps_healed": seen.gaps.healed if seen.gaps else 0,
        "chain_breaks": total.breaks,
        "unexplained_breaks": total.unexplained,
        "resets": total.resets,
        "snapshots": total.snapshots,
        "duplicates": total.duplicates,
        "reconnects": seen.reconnects,
        "ticks_by_channel": {name: counts.applied for name, counts in seen.counts.items()},
        "books_equal": seen.truth.books_equal,
        "trades_equal": seen.truth.trades_equal,
        "latency_ms_p50": seen.latency.quantile_ms(0.5),
        "latency_ms_p99": seen.latency.quantile_ms(0.99),
        "products": list(products),
        "broker": asked.broker_kind,
        "upstream": asked.upstream,
        "duration_s": round(seen.duration_s, 1),
        "ok": not found,
    }
    if found:
        line["problems"] = found
    return line


def _total(seen: Observation) -> ChainCounts:
    total = ChainCounts()
    for counts in seen.counts.values():
        total.add(counts)
    return total
