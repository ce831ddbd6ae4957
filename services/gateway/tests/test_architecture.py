"""What calls itself pure is held to it by the import contract."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[3]


def _contract(name: str) -> list[str]:
    linter = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (found,) = (one for one in linter["contracts"] if one["id"] == name)
    modules: list[str] = found["source_modules"]
    return modules


def test_whoever_says_pure_stands_in_the_contract() -> None:
    held = _contract("pure-core")
    said: list[str] = []
    for path in (ROOT / "services/gateway").rglob("*.py"):
        about = ast.get_docstring(ast.parse(path.read_text())) or ""
        if "tests" not in path.parts and re.search(r"\bPure\b", about):
            said.append(".".join(path.relative_to(ROOT).with_suffix("").parts))
    assert said
    assert sorted(set(said) - set(held)) == []
