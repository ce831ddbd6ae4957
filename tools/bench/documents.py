"""The tables of docs/performance.md, written from a results file (`make bench`, `--docs-from`).

The document says where they stand: between `<!-- bench NAME -->` and `<!-- end bench -->`. NAME is
a benchmark's, for the table of its cases, or `benchmark:part` of a table made by a function marked
with `@table`. `rest` stands for all benchmarks without a block, each with its own tables and the
one of its cases, and is written from a run of all. The text around the blocks is written by hand,
and what the file has no figures of stays.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tools.bench.registry import Spread

DOCUMENT = Path(__file__).parents[2] / "docs" / "performance.md"
REST = "rest"
CASE_TITLES = ("case", "units", "client CPU us/unit", "server CPU us/unit", "wall ms", "note")
_BLOCK = re.compile(r"<!-- bench (?P<name>\S+) -->\n(?P<body>.*?)<!-- end bench -->\n", re.DOTALL)

Parts = dict[str, list[dict[str, Any]]]
_tables: dict[str, Callable[[Parts], list[str]]] = {}


def table(name: str) -> Callable[[Callable[[Parts], list[str]]], Callable[[Parts], list[str]]]:
    """Mark a function that makes the block `name` from its benchmark's `Run.results`."""

    def mark(function: Callable[[Parts], list[str]]) -> Callable[[Parts], list[str]]:
        _tables[name] = function
        return function

    return mark


def own_tables(bench: str, parts: Parts) -> list[list[str]]:
    """The lines of each table that a function makes of a benchmark's results."""
    return [make(parts) for name, make in _tables.items() if name.partition(":")[0] == bench]


def markdown(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [titles, ["---"] * len(titles), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def where(rows: Sequence[dict[str, Any]], **equal: object) -> list[dict[str, Any]]:
    """Of a benchmark's results those that have all these values."""
    return [row for row in rows if all(row[name] == value for name, value in equal.items())]


def blocks(text: str) -> list[str]:
    return [found["name"] for found in _BLOCK.finditer(text)]


def fill(text: str, results: dict[str, Any]) -> str:
    """The document with the blocks filled that `results` (a file that `make bench` wrote) is about.

    Raises:
        KeyError: a block names a table that there is not.
    """
    benches = results["benches"]
    own = {name.partition(":")[0] for name in blocks(text)}

    def made(name: str) -> list[str]:
        bench = name.partition(":")[0]
        run = benches[bench]
        if name == bench:
            lines = markdown(CASE_TITLES, case_rows(where(results["cases"], bench=bench)))
        else:
            lines = _tables[name](run["results"])
        return [*lines, "", _circumstances(results, run)]

    def write(found: re.Match[str]) -> str:
        name: str = found["name"]
        if name == REST and results["whole"]:
            lines = []
            for bench in benches:
                if bench not in own:
                    tables = own_tables(bench, benches[bench]["results"])
                    more = [line for table in tables for line in (*table, "")]
                    lines += [f"### {bench}", "", *more, *made(bench), ""]
            lines = lines[:-1]
        elif name.partition(":")[0] in benches:
            lines = made(name)
        else:
            return found[0]
        return "\n".join([f"<!-- bench {name} -->", *lines, "<!-- end bench -->", ""])

    return _BLOCK.sub(write, text)


def case_rows(cases: Sequence[dict[str, Any]]) -> list[list[str]]:
    """A row of texts for each case (`Case.as_json`), as `CASE_TITLES` says."""
    return [
        [
            case["case"],
            f"{case['count']:,} {case['unit']}s",
            *(
                "" if case[figure] is None else Spread(*case[figure]).text()
                for figure in ("client_us", "server_us", "wall_ms")
            ),
            case["note"],
        ]
        for case in cases
    ]


def _circumstances(results: dict[str, Any], run: dict[str, Any]) -> str:
    day = time.strftime("%d %B %Y", time.gmtime(run["at"] / 1e6)).lstrip("0")
    before, after = run["load_average"]
    rounds = "1 round" if run["rounds"] == 1 else f"{run['rounds']} rounds"
    return (
        f"*{day}; {rounds}; {results['cores']} cores of {results['processor']}, "
        f"load average {before:.1f} before and {after:.1f} after; Python {results['python']}.*"
    )


def write(path: Path) -> list[str]:
    """Fill the document's blocks from the results in `path`; the names of those that changed."""
    before = DOCUMENT.read_text()
    after = fill(before, json.loads(path.read_text()))
    DOCUMENT.write_text(after)
    old, new = (list(_BLOCK.finditer(text)) for text in (before, after))
    return [now["name"] for was, now in zip(old, new, strict=True) if was["body"] != now["body"]]
