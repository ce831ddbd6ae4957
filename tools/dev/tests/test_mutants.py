"""What `mutants` is told to judge by is there, or it says what is not."""

import pytest
from click.testing import CliRunner

from tools.dev import mutants


def test_every_module_and_test_file_is_there() -> None:
    assert mutants.missing(mutants.MODULES) == []


def test_a_missing_test_file_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    there = mutants.MODULES["decimals"]
    gone = "services/common/tests/test_gone.py"
    monkeypatch.setitem(mutants.MODULES, "decimals", there._replace(tests=[*there.tests, gone]))
    monkeypatch.setattr(mutants, "run", lambda *_: pytest.fail("was run without the test"))

    result = CliRunner().invoke(mutants.main, ["decimals"])

    assert result.exit_code == 1
    assert result.output == f"Error: no such file: {gone}\n"
