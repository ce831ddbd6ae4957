"""The benchmark `fanout`: the whole gateway beside a C server that only calls `send()`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

from tools.bench.fanout.servers import SERVERS, program, running
from tools.bench.fanout.sink import Found, sink
from tools.bench.registry import NotHere, Run, bench

_FLUSHES = {1: 200, 10: 60}
# A flush of these takes up to 40 times as long.
_FEWER = {"websockets": 2, "fastapi": 3, "fastapi-queues": 5}
_WARMUP = {1: 20, 10: 5}
_PACED = ("limit", "gateway", "gateway-nats")
_PACED_PER_S = 50
_PACED_S = 5


@bench("fanout")
async def fanout(run: Run) -> None:
    """CPU for each delivery, delays, cost of connections; beside a C `send()` loop and others."""
    if not sys.platform.startswith("linux"):
        raise NotHere("it reads CPU times of Linux")
    program("limit"), program("sink")
    await _load(run)
    await _paced(run)
    await _many(run)


def _keep(
    run: Run, part: str, case: str, server: str, number: int, found: Found, **figures: Any
) -> None:
    """What a round gave, for the table of `part` and for that of all cases."""
    run.results.setdefault(part, []).append({"server": server, "round": number, **figures})
    taken = {"wall_s": found.wall_s, "server_s": found.cpu_s}
    run.sample(f"{case}: {server}", "frame", found.deliveries, **taken)


def _in_turn(run: Run, servers: Sequence[str] = tuple(SERVERS)) -> Iterator[tuple[int, str]]:
    """(round, server), back and forth, so that what drifts falls on both sides of a pair."""
    for number in range(run.rounds):
        for name in servers if number % 2 == 0 else reversed(servers):
            yield number, name


async def _load(run: Run) -> None:
    """CPU for each delivery, servers in turn, the next flush when everyone has the one before."""
    clients = 50 if run.quick else 1000
    for ticks, most in _FLUSHES.items():
        for number, name in _in_turn(run):
            if name == "gateway-batch" and ticks == 1:
                # What is alone in its flush is sent as it is.
                continue
            flushes = 20 if run.quick else most // _FEWER.get(name, 1)
            warmup = _WARMUP[ticks]
            async with running(name, ticks) as server:
                found = await sink(
                    server, [clients], flushes=flushes + warmup, ticks=ticks, warmup=warmup
                )
            _keep(
                *(run, "load", f"{ticks} a flush", name, number, found),
                clients=clients,
                ticks=ticks,
                cpu_us=found.cpu_us,
                frame_bytes=found.bytes / found.deliveries,
                others=found.others,
            )


async def _paced(run: Run) -> None:
    """Delays at a steady rate."""
    clients, seconds = (50, 1) if run.quick else (1000, _PACED_S)
    rate = _PACED_PER_S
    for number, name in _in_turn(run, _PACED):
        async with running(name, 1) as server:
            found = await sink(
                server, [clients], flushes=(seconds + 1) * rate, warmup=rate, ticks=1, rate=rate
            )
        assert found.delay_us is not None
        _keep(
            *(run, "paced", f"{rate} ticks/s", name, number, found),
            clients=clients,
            per_s=rate,
            cpu_us=found.cpu_us,
            cpu_share=found.cpu_s / found.wall_s,
            p50_ms=found.delay_us.p50 / 1000,
            p99_ms=found.delay_us.p99 / 1000,
        )


async def _many(run: Run) -> None:
    """Thousands of connections: what one costs, and whether all are served alike."""
    stages = [20, 100] if run.quick else [1000, 5000]
    for number, name in _in_turn(run):
        if name in ("gateway-batch", "gateway-nats", "fastapi-queues"):
            # Their connections cost what those of their brothers do.
            continue
        async with running(name, 1) as server:
            found = await sink(server, stages, flushes=45, warmup=5, ticks=1)
        case = f"{stages[-1]} clients"
        _keep(run, "many", case, name, number, found, stages=stages, **_connections(found))


def _connections(found: Found) -> dict[str, float]:
    """What one connection costs, and how far apart the first and the last served are."""
    first, (before, last) = found.stages[0], found.stages[-2:]
    added, delays = last.clients - before.clients, found.delay_us
    assert delays is not None
    return {
        "handshakes_per_s": added / last.handshake_s,
        "handshake_us": 1e6 * last.handshake_cpu_s / added,
        "subscribe_us": 1e6 * last.subscribe_cpu_s / added,
        # By the first stage: what later ones are given may have been another's before.
        "idle_kib": (first.rss_kib - found.rss_kib) / first.clients,
        "subscribed_kib": (last.subscribed_rss_kib - before.subscribed_rss_kib) / added,
        "latest_to_median": delays.max / delays.p50,
        "slowest_to_median": delays.client_slowest / delays.client_median,
    }
