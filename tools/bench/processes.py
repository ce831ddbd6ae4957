"""What several gateway processes on one host cost: each has its own tail, clients are shared."""

from __future__ import annotations

from statistics import median
from typing import Any

from tools.bench.documents import markdown, table
from tools.bench.fanout.native import NoCompiler, program
from tools.bench.fanout.servers import running
from tools.bench.fanout.sink import sink
from tools.bench.registry import Run, bench

_WORKERS = (1, 2, 4)
_CLIENTS = 1000
# So few that what is left is receiving and proving a tick.
_FEW = 4
_FLUSHES_PER_S = 100.0
# Of one flush: one tick, and as many as make the cost of a tick visible beside all that is
# there without any.
_ONE, _MANY = 1, 20
_CORES = (1, 2, 4, 8, 16)
_MODEL_TICKS_PER_S = (100, 1000, 5000)


@bench("processes")
async def processes(run: Run) -> None:
    """CPU of all processes for a tick to 1,000 clients, by `WEB_CONCURRENCY`; on NATS JetStream.

    100 flushes a second. With four clients what is left is each process's own tail and clock: that
    is what a further process costs.
    """
    try:
        program("sink")
    except NoCompiler as missing:
        run.skip(str(missing))
        return
    flushes = 50 if run.quick else 500
    found: list[dict[str, Any]] = []
    for _ in range(run.rounds):
        for workers in _WORKERS:
            for clients, ticks in ((_FEW, _ONE), (_FEW, _MANY), (_CLIENTS, _ONE)):
                variables = {"WEB_CONCURRENCY": str(workers), "DRAIN_SECONDS": "0"}
                async with running("gateway-nats", ticks, **variables) as server:
                    seen = await sink(
                        server,
                        [clients],
                        flushes=flushes + 20,
                        warmup=20,
                        ticks=ticks,
                        rate=_FLUSHES_PER_S,
                    )
                flush_us = 1e6 * seen.cpu_s / flushes
                found.append(
                    {"workers": workers, "clients": clients, "ticks": ticks, "flush_us": flush_us}
                )
                case = f"{workers} workers, {clients:,} clients, {ticks} ticks a flush"
                sample = run.sample(case, unit="flush")
                sample.count, sample.server_s = flushes, seen.cpu_s
    run.results["flushes"] = found


Parts = dict[str, list[dict[str, Any]]]


def _of(parts: Parts, workers: int, clients: int, ticks: int = _ONE) -> list[float]:
    return [
        one["flush_us"]
        for one in parts["flushes"]
        if (one["workers"], one["clients"], one["ticks"]) == (workers, clients, ticks)
    ]


@table("processes:flushes")
def flushes(parts: Parts) -> list[str]:
    rows = []
    best = min(_of(parts, 1, _CLIENTS))
    for workers in _WORKERS:
        cases = [
            _of(parts, workers, _FEW),
            _of(parts, workers, _FEW, _MANY),
            _of(parts, workers, _CLIENTS),
        ]
        texts = [f"{median(one):,.0f} ({min(one):,.0f}-{max(one):,.0f})" for one in cases]
        rows.append([str(workers), *texts, f"{min(cases[-1]) / best:.2f}"])
    about = (
        f"CPU of all processes for a flush, us, {_FLUSHES_PER_S:.0f} flushes a second: median "
        "(min-max); to one process: best of each."
    )
    titles = [
        "processes",
        f"{_FEW} clients, 1 tick",
        f"{_FEW} clients, {_MANY} ticks",
        f"{_CLIENTS:,} clients, 1 tick",
        "to one process",
    ]
    return [about, "", *markdown(titles, rows)]


@table("processes:model")
def model(parts: Parts) -> list[str]:
    """Deliveries a second by cores: each process spends its tail's share, the rest delivers."""
    few, many = min(_of(parts, 1, _FEW)), min(_of(parts, 1, _FEW, _MANY))
    tick_us = (many - few) / (_MANY - _ONE)
    # What runs without any tick: heartbeats, the clocks of the loop and the server, waking up.
    clock_us = max(0.0, few - tick_us) * _FLUSHES_PER_S
    delivery_us = (min(_of(parts, 1, _CLIENTS)) - few) / (_CLIENTS - _FEW)
    rows = []
    for cores in _CORES:
        left = [max(0.0, 1e6 - clock_us - rate * tick_us) for rate in _MODEL_TICKS_PER_S]
        rows.append([str(cores), *(f"{cores * one / delivery_us / 1e6:.2f} M" for one in left)])
    about = (
        f"Deliveries a second, modelled from the best of these: for each process {tick_us:.0f} us "
        f"for a tick and {clock_us / 1e4:.1f} % of its core for clocks, and {delivery_us:.2f} us "
        "for a delivery that shares no write. No core is left for anything else."
    )
    titles = ["cores", *(f"{rate:,} ticks/s" for rate in _MODEL_TICKS_PER_S)]
    return [about, "", *markdown(titles, rows)]
