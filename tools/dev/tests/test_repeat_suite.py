"""The repeated suite tells each failure by name, and calls nothing clean that tested nothing."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from tools.dev.repeat_suite import KEPT, main, read_run

FAILED = """
FAILED services/a/tests/test_a.py::test_one[nats] - assert 1 == 2
ERROR services/b/tests/test_b.py::test_two - OSError
============ 1 failed, 4876 passed, 2 skipped, 1 error in 832.70s (0:13:52) =============
"""


def test_failures_and_errors_are_told_by_name() -> None:
    run = read_run(7, FAILED, 1, 832.7)
    assert run.failed == (
        "services/a/tests/test_a.py::test_one[nats]",
        "services/b/tests/test_b.py::test_two",
    )
    assert (run.passed, run.clean) == (4876, False)


@pytest.mark.parametrize(
    ("output", "exit_code", "clean"),
    [
        ("== 12 passed in 1.00s ==\n", 0, True),
        ("== 12 passed in 1.00s ==\n", 2, False),
        ("== no tests ran in 0.10s ==\n", 5, False),
        ("........ [ 10%]\n", -9, False),
        ("== 3 skipped in 0.10s ==\n", 0, False),
    ],
)
def test_only_a_whole_run_that_tested_something_is_clean(
    output: str, exit_code: int, clean: bool
) -> None:
    assert read_run(1, output, exit_code, 1.0).clean is clean


@pytest.mark.parametrize(("body", "exit_code"), [("assert True", 0), ("assert False", 1)])
def test_it_ends_as_the_tests_did(body: str, exit_code: int) -> None:
    KEPT.mkdir(parents=True, exist_ok=True)
    # Below the tree, so that its options for pytest hold.
    with tempfile.TemporaryDirectory(dir=KEPT) as folder:
        test = Path(folder) / "test_sample.py"
        test.write_text(f"def test_sample():\n    {body}\n")
        ended = CliRunner().invoke(main, ["--runs", "1", "--jobs", "0", "--busy", str(test)])
    assert ended.exit_code == exit_code, ended.output
    assert f"{0 if exit_code else 1} of 1 clean" in ended.output
    assert ended.output.count("::test_sample") == exit_code
