"""What a load test counted, added up over clients and processes. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from market_data_fanout_client.chain import ChainCounts

from tools.latency import LatencyHistogram


@dataclass(slots=True)
class LoadCounts:
    """Sums over clients.

    Attributes:
        connected: clients that are subscribed now.
        idle: clients that never got a tick.
        conflated: ticks that merged messages stood for beyond themselves.
        churned: connections that this test cut on purpose.
        catch_ups: how often the gateway took a stream off its live push for a client was slow.
        recovered: how often it said that such a stream is live again.
        behind: slow clients that did not reach the others' positions in the end.
        snapshot: from sending `subscribe` to the first snapshot, microseconds.
        delta: from `ts_ingest` of a live tick to its arrival at a client that is not slow on
            purpose, microseconds; both clocks have to be one machine's, or in step.
    """

    clients: int = 0
    connected: int = 0
    idle: int = 0
    conflated: int = 0
    churned: int = 0
    resumed: int = 0
    slow: int = 0
    catch_ups: int = 0
    recovered: int = 0
    behind: int = 0
    drains: int = 0
    errors: int = 0
    chains: ChainCounts = field(default_factory=ChainCounts)
    snapshot: LatencyHistogram = field(default_factory=LatencyHistogram)
    delta: LatencyHistogram = field(default_factory=LatencyHistogram)

    def add(self, other: LoadCounts) -> None:
        for counted in fields(self):
            mine, theirs = getattr(self, counted.name), getattr(other, counted.name)
            if isinstance(mine, ChainCounts):
                mine.add(theirs)
            elif isinstance(mine, LatencyHistogram):
                mine.merge(theirs)
            else:
                setattr(self, counted.name, mine + theirs)

    def result(self, seconds: float) -> dict[str, object]:
        """What is printed as JSON.

        `ok` when every client got ticks, no break is unexplained and the slow ones caught up.
        """
        chains = self.chains
        return {
            "clients": self.clients,
            "clients_without_ticks": self.idle,
            "ticks": chains.applied,
            "ticks_per_s": round(chains.applied / seconds, 1) if seconds else 0.0,
            **_quantiles("snapshot_ms", self.snapshot),
            **_quantiles("latency_ms", self.delta),
            "missed": chains.unexplained,
            "duplicates": chains.duplicates,
            "conflated": self.conflated,
            "resumed": self.resumed,
            "churned": self.churned,
            "slow_clients": self.slow,
            "slow_catch_ups": self.catch_ups,
            "slow_recovered": self.recovered,
            "slow_behind": self.behind,
            "snapshots": chains.snapshots,
            "resets": chains.resets,
            "chain_breaks": chains.breaks,
            "unexplained_breaks": chains.unexplained,
            "reconnects": self.resumed,
            "drains": self.drains,
            "errors": self.errors,
            "duration_s": round(seconds, 1),
            "ok": not self.idle and not chains.unexplained and not self.behind,
        }


@dataclass(frozen=True)
class Told:
    """What a process of a load test says: now and then, and with `seconds` when it has measured.

    `refused`: why the gateway lets no such client in.
    """

    counts: LoadCounts = field(default_factory=LoadCounts)
    seconds: float | None = None
    refused: str | None = None


def _quantiles(name: str, histogram: LatencyHistogram) -> dict[str, float | None]:
    quantiles = (("p50", 0.5), ("p99", 0.99), ("p999", 0.999))
    return {f"{name}_{label}": histogram.quantile_ms(q) for label, q in quantiles}
