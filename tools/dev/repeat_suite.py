"""The whole suite, run again and again in other orders, also while every core is kept busy.

A test that fails one time in twenty hides the next real fault behind "run it again". Each run has a
seed of its own, is kept whole in `.mdf/suite`, and is told in one line; nothing is tried again.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import click

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / ".mdf" / "suite"
_FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)
_COUNT = re.compile(r"(\d+) (passed|failed|errors?|skipped)")


class Run(NamedTuple):
    """What one run of the suite came to; `failed` are the tests' names, also those in error."""

    seed: int
    passed: int
    failed: tuple[str, ...]
    exit_code: int
    seconds: float

    @property
    def clean(self) -> bool:
        """Whether it ended as it should, and something was tested at all."""
        return self.exit_code == 0 and not self.failed and self.passed > 0


def read_run(seed: int, output: str, exit_code: int, seconds: float) -> Run:
    """Read what pytest printed; one that was killed has no summary and is not clean."""
    summary = next((line for line in reversed(output.splitlines()) if _COUNT.search(line)), "")
    counts = {word: int(number) for number, word in _COUNT.findall(summary)}
    return Run(
        seed,
        counts.get("passed", 0),
        tuple(sorted(set(_FAILED.findall(output)))),
        exit_code,
        seconds,
    )


def _spin(parent: int) -> None:
    """Compute nothing until the process that wants the core busy is gone, however it went."""
    while os.getppid() == parent:
        for _ in range(1_000_000):
            pass


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Keep that many cores busy for as long as the block runs."""
    spinning = [
        multiprocessing.Process(target=_spin, args=(os.getpid(),)) for _ in range(processes)
    ]
    for process in spinning:
        process.start()
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.join()


def _suite(seed: int, jobs: int, arguments: tuple[str, ...]) -> Run:
    KEPT.mkdir(parents=True, exist_ok=True)
    kept = KEPT / f"{seed}.log"
    order = ("--dist", "loadfile", "--no-loadscope-reorder", "--seed", str(seed))
    started = time.monotonic()
    with kept.open("w") as out:
        ended = subprocess.run(
            (sys.executable, "-m", "pytest", "-n", str(jobs), *order, *arguments),
            cwd=ROOT,
            stdout=out,
            stderr=subprocess.STDOUT,
            check=False,
        )
    return read_run(seed, kept.read_text(), ended.returncode, time.monotonic() - started)


@click.command()
@click.option("--runs", default=10, show_default=True, type=click.IntRange(1))
@click.option("--jobs", default=3, show_default=True, type=click.IntRange(0), help="test processes")
@click.option("--busy", "kept_busy", is_flag=True, help="keep every core busy beside the tests")
@click.argument("arguments", nargs=-1)
def main(runs: int, jobs: int, kept_busy: bool, arguments: tuple[str, ...]) -> None:
    """Run the suite RUNS times; ends with 1 if one run had one failure. ARGUMENTS go to pytest."""
    done: list[Run] = []
    with busy(os.cpu_count() or 1 if kept_busy else 0):
        for number in range(1, runs + 1):
            run = _suite(random.randrange(1 << 16), jobs, arguments)
            done.append(run)
            verdict = "clean" if run.clean else f"exit {run.exit_code}"
            counts = f"{run.passed} passed, {len(run.failed)} failed"
            click.echo(
                f"{number:3}/{runs}  seed {run.seed:5}  {counts}  {run.seconds:5.0f} s  {verdict}"
            )
            for test in run.failed:
                click.echo(f"         {test}")
    clean = sum(run.clean for run in done)
    click.echo(f"{clean} of {runs} clean; what each printed: {KEPT.relative_to(ROOT)}/<seed>.log")
    if clean < runs:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
