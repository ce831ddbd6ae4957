"""The interpreter's clocks, as something that a simulation can take the place of.

Services keep a clock where they are defined (`clock: Callable[[], float] = time.monotonic`), so
what they find there must ask, at each call, whose time it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

NAMES = ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns")


def make_replaceable() -> None:
    """Let what is imported from now on follow whatever `time` is patched with later."""
    kept = {name: getattr(time, name) for name in NAMES}
    for name in NAMES:
        setattr(time, name, _asking(name, kept))


def _asking(name: str, kept: dict[str, Callable[[], Any]]) -> Callable[[], Any]:
    def asked() -> Any:
        current = getattr(time, name)
        return kept[name]() if current is asked else current()

    return asked
