"""`make test` shuffles the order of files by a printed seed."""

from __future__ import annotations

import itertools
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = [Path(f"test_{number}.py") for number in range(20)]


@pytest.fixture
def order(request: pytest.FixtureRequest) -> Any:
    """The files as they would run with a seed, each once if its tests stay together."""
    plugin = request.config.pluginmanager.get_plugin(str(ROOT / "conftest.py"))
    assert plugin is not None

    def ordered(seed: int | None) -> list[Path]:
        items: list[Any] = [SimpleNamespace(path=file) for file in FILES for _ in range(3)]
        plugin.pytest_collection_modifyitems(SimpleNamespace(getoption=lambda _: seed), items)
        return [file for file, _ in itertools.groupby(item.path for item in items)]

    return ordered


def test_a_seed_gives_one_order_and_another_seed_another(order: Any) -> None:
    assert order(1) == order(1) != order(2)
    assert order(None) == FILES
    for seed in range(5):
        assert sorted(order(seed)) == sorted(FILES)


def test_make_test_prints_the_seed_and_takes_it() -> None:
    planned = subprocess.run(
        ["make", "--dry-run", "test", "SEED=4711"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--seed 4711" in planned.stdout
