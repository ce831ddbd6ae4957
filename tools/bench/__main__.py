"""`python -m tools.bench [names]`: run benchmarks, print a table, write JSON."""

from __future__ import annotations

import json
import logging
import os
import platform
import re
import sys
import time
import traceback
from pathlib import Path

import click
import structlog
import uvloop
from rich.console import Console
from rich.table import Table

from services.common.runtime import tune_collector
from tools.bench.documents import CASE_TITLES, DOCUMENT, case_rows, own_tables, write
from tools.bench.registry import Case, NotHere, Run, benchmarks, usual

RESULTS = Path("bench-results")


@click.command()
@click.argument("names", nargs=-1)
@click.option("--full", is_flag=True, help="At the sizes the documents cite; takes minutes.")
@click.option("--quick", is_flag=True, help="Only show that they run; the figures mean nothing.")
@click.option("--rounds", default=3, show_default=True, help="How often each case is measured.")
@click.option("--write-docs", is_flag=True, help="Write the tables of docs/performance.md anew.")
@click.option(
    "--docs-from",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Measure nothing; write those tables from this file of bench-results/.",
)
def main(
    names: tuple[str, ...],
    full: bool,
    quick: bool,
    rounds: int,
    write_docs: bool,
    docs_from: Path | None,
) -> None:
    """Run the benchmarks NAMES, or all but those that are run on request only.

    CPU is this process's own (and the server's, where one is embedded) for each unit, the median
    and in brackets the least and the most of the rounds. It says more than wall time on a machine
    that does other work too.
    """
    known = benchmarks()
    if docs_from is not None:
        _write_docs(docs_from)
        return
    unknown = [name for name in names if name not in known]
    if unknown:
        raise click.UsageError(f"unknown: {', '.join(unknown)}; there are {', '.join(known)}")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    console = Console(width=None if sys.stdout.isatty() else 160)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.json"
    cases: list[Case] = []
    benches: dict[str, object] = {}
    failed: list[str] = []
    for name in names or usual():
        summary = (known[name].__doc__ or "").strip().partition("\n")[0]
        console.print(f"[bold]{name}[/bold] {summary}")
        run = Run(name, full=full, quick=quick, rounds=1 if quick else rounds)
        load = os.getloadavg()[0]
        # As every service does at its start.
        tune_collector()
        try:
            uvloop.run(known[name](run))
        except NotHere as why:
            console.print(f"skipped: {why}", markup=False)
            continue
        except Exception:  # noqa: BLE001 - whatever it was, the others are still to be measured
            traceback.print_exc()
            failed.append(name)
            continue
        console.print(_table(list(run.cases.values())))
        for lines in own_tables(name, run.results):
            print("", *lines, sep="\n")
        cases += run.cases.values()
        benches[name] = {
            "at": int(time.time() * 1e6),
            "load_average": [load, os.getloadavg()[0]],
            "rounds": run.rounds,
            "results": run.results,
        }
        # After each, so that whoever ends it early has the figures until then.
        found = {
            **_machine(),
            "whole": not names,
            "cases": [one.as_json() for one in cases],
            "benches": benches,
        }
        path.write_text(json.dumps(found, indent=1))
    if benches:
        console.print(f"written to {path}")
        if write_docs:
            _write_docs(path)
    if failed:
        raise click.ClickException(f"failed: {', '.join(failed)}")


def _write_docs(path: Path) -> None:
    for name in write(path):
        print(f"{DOCUMENT.name}: {name}")


def _machine() -> dict[str, object]:
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "at": int(time.time() * 1e6),
    }


def _processor() -> str:
    try:
        known = Path("/proc/cpuinfo").read_text()
    except OSError:
        known = ""
    found = re.search(r"^model name\s*:\s*(.+)$", known, re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()


def _table(cases: list[Case]) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in CASE_TITLES:
        table.add_column(title, justify="left" if title in ("case", "note") else "right")
    for row in case_rows([case.as_json() for case in cases]):
        table.add_row(*row)
    return table


if __name__ == "__main__":
    main()
