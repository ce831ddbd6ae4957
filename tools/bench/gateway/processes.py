"""What several gateway processes on one host cost: each has its own tail, clients are shared."""

from __future__ import annotations

from typing import Any

from tools.bench.documents import Parts, markdown, table, where
from tools.bench.fanout.servers import program, running
from tools.bench.fanout.sink import sink
from tools.bench.registry import Run, bench, spread

_WORKERS = (1, 2, 4)
_CLIENTS = 1000
# So few that what is left is receiving and proving a tick.
_FEW = 4
# Of one flush: one tick, and as many as make the cost of a tick visible beside a flush's own.
_ONE, _MANY = 1, 20
_LOADS = ((_FEW, _ONE), (_FEW, _MANY), (_CLIENTS, _ONE))
_CORES = (1, 2, 4, 8, 16)
_MODEL_TICKS_PER_S = (100, 1000, 5000)


@bench("processes")
async def processes(run: Run) -> None:
    """CPU of all processes for a tick to 1,000 clients, by `WEB_CONCURRENCY`; on NATS JetStream.

    A flush follows when the one before was delivered completely, so that no two share a write. With
    four clients what is left is each process's own tail: that is what a further process costs.
    """
    program("sink")
    flushes = 50 if run.quick else 500
    found: list[dict[str, Any]] = []
    for _ in range(run.rounds):
        for workers in _WORKERS:
            for clients, ticks in _LOADS:
                settings = {"WEB_CONCURRENCY": str(workers), "DRAIN_SECONDS": "0"}
                async with running("gateway-nats", ticks, **settings) as server:
                    seen = await sink(
                        server, [clients], flushes=flushes + 20, warmup=20, ticks=ticks
                    )
                one = {"workers": workers, "clients": clients, "ticks": ticks}
                found.append({**one, "flush_us": 1e6 * seen.cpu_s / flushes})
                case = f"{workers} workers, {clients:,} clients, {ticks} ticks a flush"
                run.sample(case, "flush", flushes, server_s=seen.cpu_s)
    run.results["flushes"] = found


def _of(parts: Parts, workers: int, clients: int, ticks: int = _ONE) -> list[float]:
    found = where(parts["flushes"], workers=workers, clients=clients, ticks=ticks)
    return [one["flush_us"] for one in found]


@table("processes:flushes")
def flushes(parts: Parts) -> list[str]:
    rows = []
    best = min(_of(parts, 1, _CLIENTS))
    for workers in _WORKERS:
        cases = [_of(parts, workers, *load) for load in _LOADS]
        texts = [spread(one).text(0) for one in cases]
        rows.append([str(workers), *texts, f"{min(cases[-1]) / best:.2f}"])
    about = "CPU of all processes for a flush, us: median (min-max); to one: best of each."
    titles = [
        "processes",
        f"{_FEW} clients, 1 tick",
        f"{_FEW} clients, {_MANY} ticks",
        f"{_CLIENTS:,} clients, 1 tick",
        "to one",
    ]
    return [about, "", *markdown(titles, rows)]


@table("processes:model")
def model(parts: Parts) -> list[str]:
    """Deliveries a second by cores: each process spends its tail's share, the rest delivers."""
    few, many = min(_of(parts, 1, _FEW)), min(_of(parts, 1, _FEW, _MANY))
    tick_us = (many - few) / (_MANY - _ONE)
    # Waking up, reading, and the few deliveries: once for all ticks that come together.
    turn_us = max(0.0, few - tick_us)
    delivery_us = (min(_of(parts, 1, _CLIENTS)) - few) / (_CLIENTS - _FEW)
    rows = []
    for cores in _CORES:
        left = [max(0.0, 1e6 - rate * (turn_us + tick_us)) for rate in _MODEL_TICKS_PER_S]
        rows.append([str(cores), *(f"{cores * one / delivery_us / 1e6:.2f} M" for one in left)])
    about = (
        "Deliveries a second, modelled from the best of these: each process spends "
        f"{turn_us + tick_us:.0f} us on a tick that comes alone ({tick_us:.0f} us where many come "
        f"together) and {delivery_us:.2f} us on a delivery that shares no write. Nothing else runs."
    )
    titles = ["cores", *(f"{rate:,} ticks/s" for rate in _MODEL_TICKS_PER_S)]
    return [about, "", *markdown(titles, rows)]
