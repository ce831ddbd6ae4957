"""How much a call does, counted and not timed: steps of Python, and the most bytes it held."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable
from typing import NamedTuple

# Any that nobody has: 0 to 2 are for debuggers, coverage and profilers.
_TOOL = 4


class Work(NamedTuple):
    """`steps` are functions begun and jumps made."""

    steps: int
    peak_bytes: int


def work_of(call: Callable[[], None]) -> Work:
    """Make the call and count; whatever it raises is raised."""
    steps = 0

    def count(*_: object) -> None:
        nonlocal steps
        steps += 1

    events = sys.monitoring.events
    watched = (events.PY_START, events.JUMP, events.BRANCH)
    sys.monitoring.use_tool_id(_TOOL, "fuzz")
    tracemalloc.start()
    try:
        for event in watched:
            sys.monitoring.register_callback(_TOOL, event, count)
        sys.monitoring.set_events(_TOOL, watched[0] | watched[1] | watched[2])
        call()
        return Work(steps, tracemalloc.get_traced_memory()[1])
    finally:
        sys.monitoring.set_events(_TOOL, 0)
        for event in watched:
            sys.monitoring.register_callback(_TOOL, event, None)
        sys.monitoring.free_tool_id(_TOOL)
        tracemalloc.stop()
