"""Some seeds in every run of the suite; many more by `make simulate-years`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PATHS = ("clients/python/src", "clients/conformance")
# Seeds with the one and the other broker.
NATS, REDIS = "5", "4"


def simulated(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        (sys.executable, "-m", "tests.simulation", *arguments),
        cwd=ROOT,
        env={"PYTHONPATH": ":".join(str(ROOT / path) for path in PATHS), "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_no_seed_of_a_few_loses_doubles_or_breaks_anything() -> None:
    done = simulated("--seeds", "4", "--jobs", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 seeds" in done.stdout
    assert "0 failed" in done.stdout


@pytest.mark.parametrize("seed", [NATS, REDIS])
def test_one_seed_tells_its_faults_and_the_same_twice(seed: str) -> None:
    first, second = (simulated("--seed", seed, "--products", "1") for _ in range(2))
    assert first.returncode == 0, first.stdout + first.stderr
    assert first.stdout == second.stdout
    assert "wrong=[]" in first.stdout
