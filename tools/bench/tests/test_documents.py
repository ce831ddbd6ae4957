from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tools.bench import documents
from tools.bench.__main__ import main
from tools.bench.documents import DOCUMENT, REST, blocks, fill
from tools.bench.fanout.tables import Bound, Ratio, bounds, ratio
from tools.bench.registry import benchmarks, spread

_CPU: dict[int, dict[str, list[float]]] = {
    1: {
        "limit": [5, 4],
        "gateway": [6, 5],
        "websockets": [8, 9],
        "fastapi": [16, 12],
        "fastapi-queues": [20, 25],
    },
    10: {
        "limit": [0.5, 0.5],
        "gateway": [1, 1.5],
        "websockets": [7, 7],
        "fastapi": [12, 11],
        "fastapi-queues": [20, 25],
    },
}
_P99: dict[str, list[float]] = {"limit": [1.0, 2.0], "gateway": [1.5, 2.0]}
_LOAD = [
    {
        "server": server,
        "ticks": ticks,
        "round": number,
        "cpu_us": cpu,
        "clients": 9,
        "frame_bytes": 374,
    }
    for ticks, by_server in _CPU.items()
    for server, values in by_server.items()
    for number, cpu in enumerate(values)
]
_PACED = [
    {"server": server, "round": number, "p99_ms": p99}
    for server, values in _P99.items()
    for number, p99 in enumerate(values)
]


def _results(**results: object) -> dict[str, Any]:
    run = {"at": 1_763_629_200_000_000, "load_average": [0.1, 1.2], "rounds": 2, "results": results}
    case = {
        "bench": "fanout",
        "case": "publish",
        "count": 1000,
        "unit": "record",
        "client_us": [2.0, 1.0, 3.0],
        "server_us": None,
        "wall_ms": [15.0, 4.0, 26.0],
        "note": "",
    }
    machine = {"python": "3.12.1", "processor": "a processor", "cores": 2}
    return {**machine, "whole": False, "cases": [case], "benches": {"fanout": run}}


def _block(name: str, body: str = "old\n") -> str:
    return f"<!-- bench {name} -->\n{body}<!-- end bench -->\n"


def test_blocks_with_figures_are_written_and_everything_else_stays() -> None:
    text = f"before\n{_block('fanout')}between\n{_block('reads')}after\n"
    found = fill(text, _results())
    assert "| publish | 1,000 records | 2.00 (1.00-3.00) |  | 15.0 (4.0-26.0) |  |" in found
    assert "*20 November 2025; 2 rounds; 2 cores of a processor, load average 0.1 before" in found
    assert found.startswith("before\n")
    assert found.endswith(f"between\n{_block('reads')}after\n")
    assert fill(found, _results()) == found


def test_a_part_is_written_by_its_own_table() -> None:
    found = fill(_block("fanout:load"), _results(load=_LOAD))
    assert "| gateway, fed in its process | 5.50 (5.00-6.00) | 1.25 (1.23) |" in found


def test_the_rest_is_what_has_no_block_of_its_own_in_a_run_of_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(documents, "_tables", {"reads:pages": lambda _parts: ["| its own |"]})
    results = _results()
    run = results["benches"]["fanout"]
    results |= {"benches": {"fanout": run, "reads": run}}
    text = _block("fanout") + _block("rest")
    assert fill(text, results).endswith(_block("rest"))
    found = fill(text, results | {"whole": True})
    assert "### reads\n\n| its own |\n\n| case |" in found
    assert "### fanout" not in found


def test_a_block_without_a_table_is_an_error() -> None:
    with pytest.raises(KeyError, match="fanout:nothing"):
        fill(_block("fanout:nothing"), _results())


def test_every_block_of_the_document_is_of_a_benchmark_or_has_its_table() -> None:
    names = blocks(DOCUMENT.read_text())
    fanout = ("load", "bounds", "paced", "many")
    assert {f"fanout:{part}" for part in fanout} <= set(names)
    assert len(names) == len(set(names))
    for name in set(names) - {REST}:
        assert name.partition(":")[0] in benchmarks()
        if ":" in name:
            assert name in documents._tables


def test_ratios_are_of_the_best_of_each_and_of_neighbours() -> None:
    assert ratio([6.0, 5.0, 9.0], [4.0, 5.0, 5.0]) == (5.0 / 4.0, 1.5)
    assert spread([3.0, 1.0, 2.0]) == (2.0, 1.0, 3.0)


def test_bounds_are_those_the_gateway_is_held_to() -> None:
    found = {bound.what: (bound.most, bound.found.best) for bound in bounds(_LOAD, _PACED)}
    assert found == {
        "CPU, 1 tick per flush, to C": (1.35, 5 / 4),
        "CPU, 10 ticks per flush, to C": (2.0, 2.0),
        "CPU, 1 tick per flush, to FastAPI `send_text` by queues": (1 / 2.5, 5 / 20),
        "CPU, 1 tick per flush, to FastAPI `send_text` in turn": (1 / 2.5, 5 / 12),
        "CPU, 1 tick per flush, to `websockets.broadcast`": (1 / 1.3, 5 / 8),
        "p99 of delays at 50 ticks/s, to C (by pairs)": (1.3, 1.5),
    }
    text = fill(_block("fanout:bounds"), _results(load=_LOAD, paced=_PACED))
    assert text.count("**does not hold**") == 1
    assert text.count("| holds |") == 5


def test_a_p99_is_judged_by_pairs_and_cpu_by_the_best_of_each() -> None:
    lucky, unlucky = Ratio(best=1.0, pairs=2.0), Ratio(best=2.0, pairs=1.0)
    assert Bound("CPU", 1.5, lucky).holds
    assert not Bound("CPU", 1.5, unlucky).holds
    assert not Bound("p99", 1.5, lucky, by_pairs=True).holds
    assert Bound("p99", 1.5, unlucky, by_pairs=True).holds


def test_the_document_is_written_from_a_file_of_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document, results = tmp_path / "performance.md", tmp_path / "results.json"
    document.write_text(_block("fanout:load"))
    results.write_text(json.dumps(_results(load=_LOAD)))
    monkeypatch.setattr(documents, "DOCUMENT", document)
    done = CliRunner().invoke(main, ["--docs-from", str(results)], catch_exceptions=False)
    assert "fanout:load" in done.output
    assert "1.25 (1.23)" in document.read_text()
