"""Log events as the code has them: one literal name a fact, nothing secret among the fields."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}
NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
# A field of this name would hold what must not be logged.
FORBIDDEN = {"payload", "body", "frame", "api_key", "secret", "password", "token", "headers"}


def calls() -> Iterator[tuple[str, ast.Call]]:
    """Every logging call of production code, and where it is."""
    for path in sorted((ROOT / "services").rglob("*.py")):
        if {"tests", "testing"} & set(path.parts) or path.name == "testing.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in LEVELS
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id == "log"
            ):
                yield f"{path.relative_to(ROOT)}:{node.lineno}", node


def test_an_event_has_a_literal_name_and_no_forbidden_field() -> None:
    found = list(calls())
    assert len(found) > 30
    wrong = [
        where
        for where, call in found
        if len(call.args) != 1
        or not isinstance(call.args[0], ast.Constant)
        or not NAME.fullmatch(str(call.args[0].value))
        or {keyword.arg for keyword in call.keywords} & FORBIDDEN
    ]
    assert wrong == []
