"""Running the sink: what it found, or what was wrong with what it was sent."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

import msgspec

from tools.bench.fanout.servers import Running, other_core, program
from tools.bench.fanout.ticks import FIRST
from tools.bench.servers import child


class SinkFault(Exception):
    """A frame was lost, sent twice, out of order or malformed, or a connection ended.

    Attributes:
        kind: `missing`, `repeated`, `unchained`, `unasked`, `malformed`, `closed`, `refused`,
            `silent` or `memory`.
    """

    def __init__(self, server: str, kind: str, detail: str) -> None:
        self.kind = kind
        super().__init__(f"{server}: {kind}: {detail}")


class Delays(msgspec.Struct, frozen=True):
    """From asking for a tick to reading it, microseconds: all deliveries, and clients' medians."""

    p50: float
    p99: float
    max: float
    client_median: float
    client_slowest: float


class Stage(msgspec.Struct, frozen=True):
    """Connections that were opened together: up to `clients` in all."""

    clients: int
    handshake_s: float
    handshake_cpu_s: float
    rss_kib: int
    subscribe_s: float
    subscribe_cpu_s: float
    subscribed_rss_kib: int


class Found(msgspec.Struct, frozen=True):
    """What the sink measured; CPU and memory are the server's."""

    rss_kib: int
    stages: list[Stage]
    deliveries: int
    wall_s: float
    cpu_s: float
    reads: int
    bytes: int
    others: int
    pings: int
    delay_us: Delays | None = None

    @property
    def cpu_us(self) -> float:
        """The server's CPU for each delivery, microseconds: CPU seconds per million."""
        return 1e6 * self.cpu_s / self.deliveries


class _Fault(msgspec.Struct, frozen=True):
    fault: str
    detail: str


async def sink(
    server: Running,
    clients: Sequence[int],
    *,
    flushes: int,
    ticks: int,
    warmup: int = 0,
    rate: float = 0.0,
    silence_s: float = 20.0,
) -> Found:
    """Connect up to the last of `clients`, in stages, and ask for `flushes` of `ticks` messages.

    `flushes` includes `warmup`, which is not measured. `rate` 0: each when the one before is
    completely delivered; else so many a second.

    Raises:
        SinkFault: something was not delivered exactly once and in order.
    """
    arguments = [
        *(server.port, server.pid, server.credits, flushes, warmup, ticks, rate, FIRST),
        *(server.subscribe, server.ready, int(silence_s * 1000), *clients),
    ]
    command = (str(program("sink")), *map(str, arguments))
    async with child(
        *command, stdout=asyncio.subprocess.PIPE, pass_fds=(server.credits,)
    ) as process:
        os.sched_setaffinity(process.pid, other_core())
        output, _ = await process.communicate()
    if process.returncode:
        fault = msgspec.json.decode(output, type=_Fault)
        raise SinkFault(server.name, fault.fault, fault.detail)
    return msgspec.json.decode(output, type=Found)
