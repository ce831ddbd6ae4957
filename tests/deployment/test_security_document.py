"""docs/security.md names the tests that hold each bound: they are there, and under that name."""

from __future__ import annotations

import re
from pathlib import Path

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "security.md"


def test_each_test_that_the_document_names_exists() -> None:
    named = re.findall(r"\[(test_\w+)\]\(([^)]+\.py)\)", DOCUMENT.read_text())
    assert len(named) > 30
    missing = [
        name
        for name, path in named
        if not re.search(rf"def {name}\(", (DOCUMENT.parent / path).read_text())
    ]
    assert missing == []


def test_each_bound_names_its_test() -> None:
    tables = re.findall(
        r"\| what \| bound \| test \|\n\|---.*\n((?:\|.*\n)+)", DOCUMENT.read_text()
    )
    assert len(tables) == 2
    for row in "".join(tables).splitlines():
        assert re.search(r"\[test_\w+\]\([^)]+\) ?(, \[|\|)", row), row
