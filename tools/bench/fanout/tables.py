"""What the samples of the benchmark `fanout` say: ratios to the limit, bounds, tables."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any, NamedTuple

from tools.bench.documents import markdown, table, where
from tools.bench.fanout.servers import SERVERS
from tools.bench.registry import spread

Sample = dict[str, Any]
# Of the table of many connections: title, figure, digits.
_MANY = (
    ("handshakes/s", "handshakes_per_s", 0),
    ("CPU us a handshake", "handshake_us", 0),
    ("CPU us a subscription", "subscribe_us", 0),
    ("KiB, connected", "idle_kib", 1),
    ("KiB, subscribed", "subscribed_kib", 1),
    ("latest delivery / median", "latest_to_median", 1),
    ("slowest client / median", "slowest_to_median", 2),
)


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
    found = sorted(where(samples, server=server), key=lambda sample: sample["round"])
    return [float(sample[figure]) for sample in found]


def ratio(mine: Sequence[float], others: Sequence[float]) -> Ratio:
    pairs = [one / other for one, other in zip(mine, others, strict=True)]
    return Ratio(min(mine) / min(others), median(pairs))


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

    def to(
        samples: Sequence[Sample], server: str, mine: str = "gateway", figure: str = "cpu_us"
    ) -> Ratio:
        return ratio(of_server(samples, mine, figure), of_server(samples, server, figure))

    one, ten = (where(load, ticks=ticks) for ticks in (1, 10))
    found = [
        Bound("CPU, 1 tick per flush, to C", 1.35, to(one, "limit")),
        Bound("CPU, 10 ticks per flush, to C", 2.0, to(ten, "limit")),
    ]
    for server, title, fewer in (
        ("fastapi-queues", "FastAPI `send_text` by queues", 2.5),
        ("fastapi", "FastAPI `send_text` in turn", 2.5),
        ("websockets", "`websockets.broadcast`", 1.3),
    ):
        by_c = to(one, server, "limit").best
        name = f"CPU, 1 tick per flush, to {title}"
        found.append(Bound(name, 1 / fewer, to(one, server), by_c))
    name = "p99 of delays at 50 ticks/s, to C (by pairs)"
    p99 = to(paced, "limit", figure="p99_ms")
    return [*found, Bound(name, 1.3, p99, by_pairs=True)]


@table("fanout:load")
def load(parts: dict[str, list[Sample]]) -> list[str]:
    samples = parts["load"]
    rows = []
    for server in _present(samples):
        row = [SERVERS[server].title]
        for ticks in (1, 10):
            some = where(samples, ticks=ticks)
            mine, limit = (of_server(some, one, "cpu_us") for one in (server, "limit"))
            row += [spread(mine).text(2), ratio(mine, limit).text()] if mine else ["", ""]
        rows.append(row)
    clients, size = samples[0]["clients"], of_server(samples, "limit", "frame_bytes")[0]
    about = (
        f"CPU seconds of the server for a million deliveries to {clients:,} clients, frames of "
        f"{size:.0f} bytes: median (min-max); x C: best of each (median of pairs)."
    )
    titles = ["", "1 tick per flush", "x C", "10 ticks per flush", "x C"]
    return [about, "", *markdown(titles, rows)]


@table("fanout:bounds")
def held(parts: dict[str, list[Sample]]) -> list[str]:
    rows = [
        [
            bound.what,
            f"at most {bound.most:.2f}",
            bound.found.text(),
            f"{bound.limit:.2f}",
            "holds" if bound.holds else "**does not hold**",
        ]
        for bound in bounds(parts["load"], parts["paced"])
    ]
    titles = ["the gateway's", "asked", "best of each (median of pairs)", "C itself", ""]
    return markdown(titles, rows)


@table("fanout:paced")
def paced(parts: dict[str, list[Sample]]) -> list[str]:
    samples = parts["paced"]
    limit = of_server(samples, "limit", "p99_ms")
    rows = [
        [
            SERVERS[server].title,
            *(
                spread(of_server(samples, server, figure)).text(2)
                for figure in ("p50_ms", "p99_ms")
            ),
            ratio(of_server(samples, server, "p99_ms"), limit).text(),
            f"{100 * spread(of_server(samples, server, 'cpu_share')).median:.0f} %",
        ]
        for server in _present(samples)
    ]
    about = (
        f"{samples[0]['per_s']} ticks/s to {samples[0]['clients']:,} clients, from asking for a "
        "tick to having read it, ms."
    )
    return [about, "", *markdown(["", "p50", "p99", "p99 x C", "CPU of one core"], rows)]


@table("fanout:many")
def many(parts: dict[str, list[Sample]]) -> list[str]:
    samples = parts["many"]
    rows = [
        [
            SERVERS[server].title,
            *(spread(of_server(samples, server, name)).text(digits) for _, name, digits in _MANY),
        ]
        for server in _present(samples)
    ]
    first, last = samples[0]["stages"]
    about = (
        f"From {first:,} to {last:,} connections, opened 64 at a time; then 1 tick per flush to "
        f"all {last:,}. Memory is resident memory (without the kernel's) for each of the first "
        f"{first:,} before it subscribes, and for each of the others once it has."
    )
    return [about, "", *markdown(["", *(title for title, _, _ in _MANY)], rows)]


def _present(samples: Sequence[Sample]) -> list[str]:
    return [server for server in SERVERS if where(samples, server=server)]
