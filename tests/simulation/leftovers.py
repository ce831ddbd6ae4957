"""What a process holds: tasks, timers, connections. After all faults it is what it was before."""

from __future__ import annotations

import asyncio
from collections import Counter

from tests.simulation.loop import SimulatedLoop
from tests.simulation.machine import Process, process_of


def held_by(loop: SimulatedLoop, process: Process) -> Counter[str]:
    """How many of each kind of task and connection a process has."""
    held: Counter[str] = Counter()
    for task in asyncio.all_tasks(loop):
        if process_of(task.get_context()) is process:
            held[f"task {getattr(task.get_coro(), '__qualname__', '?')}"] += 1
    # Of a machine that was lost its peers learn by their own long patience (nats-server: minutes).
    held["connection"] = sum(not transport.half_open for transport in process.transports)
    return held


def grown(
    part: str, before: Counter[str], after: Counter[str], *, connections: int = 0
) -> list[str]:
    """What there is more of than before; of connections, by more than so many."""
    allowed = {"connection": connections}
    return [
        f"{part}: {after[what]} of {what}, {before[what]} before the faults"
        for what in sorted(after)
        if after[what] > before[what] + allowed.get(what, 0)
    ]
