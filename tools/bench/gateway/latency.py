"""Where a tick's time goes between the exchange's frame and the client's socket.

The services say it themselves: each traced record's spans begin and end where it changes hands, on
one clock, since all run on this machine. What the client sees is measured by a client of every
stream, from `ts_ingest` to having read the tick.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from services.common.stream.nats.client import LeanClient
from services.common.stream.nats.wire import publish_frame
from services.common.testing.waiting import eventually
from tools.bench.documents import Parts, markdown, table, where
from tools.bench.gateway.slow_clients import QuickReader
from tools.bench.registry import Run, bench, quantile, spread
from tools.bench.websocket import command
from tools.dev.observability.collector import CollectedSpan, Collector
from tools.simulator.market.products import products_of
from tools.stack.options import StackOptions
from tools.stack.stack import Stack

# Seldom enough to cost nothing.
_BARE_EVERY_S = 0.05


class Load(NamedTuple):
    """`rate`: messages a second that the exchange sends; `traced`: the part that is followed."""

    name: str
    products: int
    rate: float
    traced: float


LOADS = (Load("500 ticks/s", 20, 530, 0.1), Load("10 ticks/s", 1, 10, 1.0))
# From where in a trace, to where: a hop ends where the next one begins; nobody waits for what is in
# brackets.
_RECEIVED, _RAW_SENT = ("ingest", "start"), ("publish raw", "start")
_NORMALIZED, _TICK_SENT = ("normalize", "start"), ("publish tick", "start")
_TAKEN, _WRITTEN = ("fan out", "start"), ("fan out", "end")
HOPS = {
    "frame received to raw record published": (_RECEIVED, _RAW_SENT),
    "raw published to normalizer took": (_RAW_SENT, _NORMALIZED),
    "normalizer took to tick published": (_NORMALIZED, _TICK_SENT),
    "tick published to gateway took": (_TICK_SENT, _TAKEN),
    "gateway took to socket written": (_TAKEN, _WRITTEN),
    "frame received to socket written": (_RECEIVED, _WRITTEN),
    "(raw published to its ack: durable)": (_RAW_SENT, ("publish raw", "end")),
    "(tick published to its ack: durable)": (_TICK_SENT, ("publish tick", "end")),
}
_TO_CLIENT = "frame received to read by a client"
_BARE = "(meanwhile, a bare message to nats-server and back)"
_NEEDED = frozenset({"ingest", "publish raw", "normalize", "publish tick", "fan out"})


@bench("latency")
async def latency(run: Run) -> None:
    """The whole stack at 500 and at 10 ticks a second: p50 and p99 of each hop of a tick."""
    seconds = 2.0 if run.quick else 20.0 if run.full else 10.0
    # Of each hop and round: microseconds between its two places.
    found: list[dict[str, Any]] = []
    for load in LOADS:
        with Collector() as collector, tempfile.TemporaryDirectory(prefix="mdf-bench-") as folder:
            environment = {
                "*": {
                    "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
                    "OTEL_TRACES_SAMPLER_ARG": str(load.traced),
                    "OTEL_BSP_SCHEDULE_DELAY": "500",
                    "LOG_LEVEL": "ERROR",
                },
                "exchange": {"SIM_RATE": f"{load.rate:g}"},
                # DynamoDB's stand-in takes 3 ms of CPU a row; where that is a service elsewhere,
                # these cores are the pipeline's.
                "snapshotter": {"SNAPSHOT_PERIOD_MS": "20000"},
            }
            options = StackOptions(
                products=products_of(load.products),
                run_dir=Path(folder),
                environment=environment,
            )
            async with Stack(options) as stack:
                subscribe = command(
                    type="subscribe",
                    products=stack.products,
                    channels=["ticker", "trades", "book"],
                )
                _, reader = await asyncio.get_running_loop().create_connection(
                    partial(QuickReader, subscribe), "127.0.0.1", stack.services["gateway"].port
                )
                # Of each stream a state comes first; from then on ticks do.
                states = 3 * load.products
                await eventually(lambda: len(reader.latencies) > states, "ticks")  # noqa: B023 - awaited here
                # Snapshots, first rows and checkpoints are not what is measured.
                await asyncio.sleep(min(5.0, seconds))
                for _ in range(run.rounds):
                    reader.latencies.clear()
                    collector.forget()
                    bare = await _bare_messages(stack.broker.url, seconds)
                    arrived = list(reader.latencies)
                    # The last spans of those that were received in time are still on their way.
                    await asyncio.sleep(1.5)
                    found += _hops(load, list(collector.traces().values()), arrived, bare)
                    note = f"{len(arrived) / seconds:.0f} messages/s to a client of everything"
                    run.note(load.name, note)
                reader.transport.abort()
    run.results["hops"] = found


def _hops(
    load: Load,
    traces: Sequence[Sequence[CollectedSpan]],
    arrived: Sequence[int],
    bare: Sequence[float],
) -> list[dict[str, Any]]:
    ways = [{span.name: span for span in spans} for spans in traces]
    whole = [way for way in ways if way.keys() >= _NEEDED]
    values = {
        hop: [(_at(way, end) - _at(way, start)) / 1e3 for way in whole]
        for hop, (start, end) in HOPS.items()
    }
    values[_TO_CLIENT] = [float(value) for value in arrived]
    values[_BARE] = list(bare)
    return [
        {
            "load": load.name,
            "hop": hop,
            "p50": quantile(some, 0.5),
            "p99": quantile(some, 0.99),
            "count": len(some),
        }
        for hop, some in values.items()
        if some
    ]


def _at(way: Mapping[str, CollectedSpan], place: tuple[str, str]) -> int:
    name, edge = place
    return int(getattr(way[name], edge))


async def _bare_messages(url: str, seconds: float) -> list[float]:
    """What the machine and the server make of the least there is, microseconds each."""
    client = LeanClient()
    await client.connect(url)
    back = asyncio.Event()
    client.attach("bench.bare", lambda *_message: back.set())
    frame = publish_frame("bench.bare", "", b"x" * 400)
    found: list[float] = []
    end = time.perf_counter() + seconds
    while (now := time.perf_counter()) < end:
        back.clear()
        client.write(frame)
        await back.wait()
        found.append((time.perf_counter() - now) * 1e6)
        await asyncio.sleep(_BARE_EVERY_S)
    await client.close()
    return found


@table("latency:hops")
def hops(parts: Parts) -> list[str]:
    """A line for each hop; of each load p50 and p99, the median of the rounds (least-most)."""
    found = parts["hops"]
    loads = list(dict.fromkeys(one["load"] for one in found))
    rows = [
        [hop, *(_text(found, load, hop, which) for load in loads for which in ("p50", "p99"))]
        for hop in dict.fromkeys(one["hop"] for one in found)
    ]
    titles = ["ms", *(f"{load}: {which}" for load in loads for which in ("p50", "p99"))]
    return markdown(titles, rows)


def _text(found: list[dict[str, Any]], load: str, hop: str, which: str) -> str:
    some = [one[which] / 1e3 for one in where(found, load=load, hop=hop)]
    return spread(some).text(2) if some else ""
