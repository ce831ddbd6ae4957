"""What the samples of the benchmark `fanout` say: medians, ratios to the limit, bounds. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any, NamedTuple

Sample = dict[str, Any]


class Ratio(NamedTuple):
    """How many times one server's figure is another's.

    `best`: of the best round of each, which noise disturbs least; `pairs`: the median over rounds,
    in which both were measured one shortly after the other.
    """

    best: float
    pairs: float

    def text(self) -> str:
        return f"{self.best:.2f} ({self.pairs:.2f})"


def of_server(samples: Sequence[Sample], server: str, figure: str) -> list[float]:
    """A figure of one server, by rounds."""
    found = [sample for sample in samples if sample["server"] == server]
    return [float(sample[figure]) for sample in sorted(found, key=lambda sample: sample["round"])]


def ratio(mine: Sequence[float], others: Sequence[float]) -> Ratio:
    """`mine` to `others`, both by rounds."""
    pairs = [one / other for one, other in zip(mine, others, strict=True)]
    return Ratio(min(mine) / min(others), median(pairs))


def load_of(samples: Sequence[Sample], ticks: int) -> list[Sample]:
    return [sample for sample in samples if sample["ticks"] == ticks]


class Bound(NamedTuple):
    """A bound the gateway is held to, what was found, and what C would be by it (best of each).

    CPU is judged by the best of each side, which other work disturbs least. Of a p99 the best is
    only the luckiest round, so it is judged `by_pairs`.
    """

    what: str
    most: float
    found: Ratio
    limit: float = 1.0
    by_pairs: bool = False

    @property
    def holds(self) -> bool:
        return (self.found.pairs if self.by_pairs else self.found.best) <= self.most


def bounds(load: Sequence[Sample], paced: Sequence[Sample]) -> list[Bound]:
    """The gateway's CPU and delays, each as a ratio that should be at most so much."""
    found: list[Bound] = []
    for ticks, most in ((1, 1.35), (10, 2.0)):
        samples = load_of(load, ticks)
        mine = of_server(samples, "gateway", "cpu_us")
        limit = of_server(samples, "limit", "cpu_us")
        name = "1 tick" if ticks == 1 else f"{ticks} ticks"
        found.append(Bound(f"CPU, {name} per flush, to C", most, ratio(mine, limit)))
    one = load_of(load, 1)
    mine = of_server(one, "gateway", "cpu_us")
    for server, title, fewer in (
        ("fastapi-queues", "FastAPI `send_text` by queues", 2.5),
        ("fastapi", "FastAPI `send_text` in turn", 2.5),
        ("websockets", "`websockets.broadcast`", 1.3),
    ):
        others = of_server(one, server, "cpu_us")
        by_c = ratio(of_server(one, "limit", "cpu_us"), others).best
        name = f"CPU, 1 tick per flush, to {title}"
        found.append(Bound(name, 1 / fewer, ratio(mine, others), by_c))
    delays = of_server(paced, "gateway", "p99_ms"), of_server(paced, "limit", "p99_ms")
    name = "p99 of delays at 50 ticks/s, to C (by pairs)"
    found.append(Bound(name, 1.3, ratio(*delays), by_pairs=True))
    return found
