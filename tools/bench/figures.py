"""What several samples say together, and what a process has used. Linux for the latter."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import NamedTuple


class Spread(NamedTuple):
    """Of several rounds."""

    median: float
    least: float
    most: float

    def text(self, digits: int | None = None) -> str:
        """Median and, in brackets, the least and the most; more digits where it is small."""
        if digits is None:
            digits = 2 if self.median < 10 else 1
        return f"{self.median:,.{digits}f} ({self.least:,.{digits}f}-{self.most:,.{digits}f})"


def spread(values: Sequence[float]) -> Spread:
    return Spread(median(values), min(values), max(values))


def quantile(values: Sequence[float], share: float) -> float:
    """The value that `share` of them are not above."""
    return sorted(values)[int(share * (len(values) - 1))]


def process_cpu_s(pid: int) -> float:
    """CPU that a process's threads have used, seconds, to the nanosecond; 0 where nobody counts."""
    used = 0
    for counted in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        # A thread may end meanwhile.
        with suppress(OSError):
            used += int(counted.read_text().split()[0])
    return used / 1e9
