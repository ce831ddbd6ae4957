"""Which benchmarks there are, and what one of them is handed to record its samples with.

What a process has used is read from Linux.
"""

from __future__ import annotations

import importlib
import pkgutil
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import tools.bench
from tools.embedded.process import EmbeddedServer


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


def process_cpu_s(pid: int | None) -> float:
    """CPU that a process's threads have used, seconds, to the nanosecond; 0 where nobody counts."""
    used = 0
    for counted in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        # A thread may end meanwhile.
        with suppress(OSError):
            used += int(counted.read_text().split()[0])
    return used / 1e9


def proc_kib(file: str, name: str) -> float:
    """What lines of a file of /proc that begin with `name` say, added up; Linux counts in KiB."""
    lines = Path("/proc", file).read_text().splitlines()
    return sum(float(line.split()[1]) for line in lines if line.startswith(name))


class NotHere(Exception):
    """It cannot be measured on this machine; the message says why."""


@dataclass(slots=True)
class Sample:
    """One measured stretch; `count` is set by whoever measures (records, requests)."""

    count: int = 0
    wall_s: float = 0.0
    client_s: float = 0.0
    server_s: float | None = None


@dataclass(slots=True)
class Case:
    """The samples of one thing that is measured; `unit` is what `Sample.count` counts."""

    bench: str
    name: str
    unit: str
    note: str = ""
    samples: list[Sample] = field(default_factory=list)

    def client_us(self) -> Spread:
        """CPU of this process for each unit, microseconds: median, least, most."""
        return spread([1e6 * sample.client_s / sample.count for sample in self.samples])

    def server_us(self) -> Spread | None:
        used = [(one.server_s, one.count) for one in self.samples if one.server_s is not None]
        return spread([1e6 * seconds / count for seconds, count in used]) if used else None

    def wall_ms(self) -> Spread:
        return spread([1e3 * sample.wall_s for sample in self.samples])

    def as_json(self) -> dict[str, Any]:
        figures = (self.client_us, self.server_us, self.wall_ms)
        return {
            "bench": self.bench,
            "case": self.name,
            "unit": self.unit,
            "note": self.note,
            "count": self.samples[0].count if self.samples else 0,
            **{one.__name__: one() if self.samples else None for one in figures},
            "samples": len(self.samples),
        }


class Run:
    """Handed to a benchmark.

    Cases that are compared are measured in turn, once in each of `rounds`, since other work on the
    machine comes and goes.

    Attributes:
        full: measure at the sizes that the documents cite, which takes minutes.
        quick: only show that it runs; the figures mean nothing.
        rounds: how often each case is measured.
        results: what the benchmark found besides, as its own table reads it; goes into the JSON.
    """

    def __init__(self, bench: str, *, full: bool, rounds: int, quick: bool = False) -> None:
        self.full = full
        self.quick = quick
        self.rounds = rounds
        self.cases: dict[str, Case] = {}
        self.results: dict[str, list[Any]] = {}
        self._bench = bench

    @contextmanager
    def measure(
        self, case: str, *servers: EmbeddedServer | int | None, unit: str = "record"
    ) -> Iterator[Sample]:
        """Measure the block, and all `servers` (or processes) meanwhile, as one sample of `case`.

        The block sets `count`.
        """
        sample = Sample()
        pids = [one if isinstance(one, int) else one.pid for one in servers if one is not None]
        server_before = sum(map(process_cpu_s, pids))
        wall, cpu = time.perf_counter(), time.process_time()
        yield sample
        sample.client_s = time.process_time() - cpu
        sample.wall_s = time.perf_counter() - wall
        if pids:
            sample.server_s = sum(map(process_cpu_s, pids)) - server_before
        self.case(case, unit=unit).samples.append(sample)

    def sample(self, case: str, unit: str, count: int = 0, **seconds: float) -> Sample:
        """A sample of `case` that was measured elsewhere, or is filled in by whoever asks."""
        sample = Sample(count, **seconds)
        self.case(case, unit=unit).samples.append(sample)
        return sample

    def case(self, name: str, *, unit: str = "record") -> Case:
        return self.cases.setdefault(name, Case(self._bench, name, unit))

    def note(self, case: str, text: str) -> None:
        self.case(case).note = text


Benchmark = Callable[[Run], Coroutine[Any, Any, None]]
_found: dict[str, Benchmark] = {}
_on_request: set[str] = set()


def bench(name: str, *, on_request: bool = False) -> Callable[[Benchmark], Benchmark]:
    """Mark a function as the benchmark `name`; the first line of its docstring describes it.

    `on_request`: it is run only when it is named.
    """

    def mark(function: Benchmark) -> Benchmark:
        _found[name] = function
        if on_request:
            _on_request.add(name)
        return function

    return mark


def benchmarks() -> dict[str, Benchmark]:
    """All of them, by name; imports every module of this package and of the rooms in it."""
    for module in pkgutil.walk_packages(tools.bench.__path__, f"{tools.bench.__name__}."):
        if not {"__main__", "tests"}.intersection(module.name.split(".")):
            importlib.import_module(module.name)
    return dict(sorted(_found.items()))


def usual() -> list[str]:
    """The names of those that are run when none is named."""
    return [name for name in benchmarks() if name not in _on_request]
