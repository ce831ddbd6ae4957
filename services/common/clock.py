"""The time of day, for who is not told it."""

from __future__ import annotations

import time


def now_us() -> int:
    """The time of day, microseconds."""
    return time.time_ns() // 1000
