"""Conventions of the code that no linter knows, read out of the code itself."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from services.common.settings import CommonSettings

ROOT = Path(__file__).parents[3]
COMMON = ROOT / "services" / "common"
# The one owner of tasks whose lives no block can span: it learns how they end.
OWNER = COMMON / "stream" / "worker.py"


_OF_MSGSPEC = {"DecodeError", "MsgspecError", "msgspec.DecodeError", "msgspec.MsgspecError"}


def _product(*folders: Path) -> list[Path]:
    """Python files without tests and what tests share."""
    return [
        path
        for folder in folders
        for path in sorted(folder.rglob("*.py"))
        if not {"tests", "testing"} & set(path.relative_to(ROOT).parts)
    ]


def _handlers(tree: ast.AST) -> Iterator[tuple[int, set[str]]]:
    """Each `except` with the names of what it catches."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and node.type is not None:
            caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            yield node.lineno, {ast.unparse(each) for each in caught}


def _catches_too_little(source: str) -> list[int]:
    """Lines where msgspec's own error is caught, and not what its decoding raises besides."""
    return [
        line
        for line, names in _handlers(ast.parse(source))
        if names & _OF_MSGSPEC and "RecursionError" not in names
    ]


def _parentless(source: str) -> list[int]:
    """Lines that start tasks outside of a group, or collect them where one that fails is lost."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        owner, _, name = called.rpartition(".")
        if name in ("ensure_future", "gather") or (
            name == "create_task" and (owner == "asyncio" or "loop" in owner)
        ):
            found.append(node.lineno)
    return found


@pytest.mark.parametrize(
    ("caught", "enough"),
    [
        ("msgspec.DecodeError", False),
        ("DecodeError", False),
        ("(msgspec.DecodeError, UnicodeDecodeError)", False),
        ("(ValueError, msgspec.MsgspecError)", False),
        ("(msgspec.DecodeError, RecursionError, UnicodeEncodeError)", True),
        ("UNREADABLE", True),
        ("ValueError", True),
    ],
)
def test_the_check_of_handlers_knows_which_catch_too_little(caught: str, *, enough: bool) -> None:
    source = f"try:\n    pass\nexcept {caught}:\n    pass\n"
    assert _catches_too_little(source) == ([] if enough else [3])


@pytest.mark.parametrize(
    ("call", "owned"),
    [
        ("asyncio.create_task(work())", False),
        ("asyncio.ensure_future(work())", False),
        ("asyncio.get_running_loop().create_task(work())", False),
        ("loop.create_task(work())", False),
        ("asyncio.gather(a, b)", False),
        ("group.create_task(work())", True),
    ],
)
def test_the_check_of_tasks_knows_which_have_a_parent(call: str, *, owned: bool) -> None:
    assert _parentless(call) == ([] if owned else [1])


def test_nobody_catches_msgspecs_error_alone() -> None:
    """Its decoding raises Python's own errors too: `wire.UNREADABLE` has all of them."""
    wrong = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in _product(ROOT / "services", ROOT / "tools")
        for line in _catches_too_little(path.read_text())
    ]
    assert wrong == []


def test_every_task_of_the_common_code_has_a_parent() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in _product(COMMON)
        for line in _parentless(path.read_text())
        if path != OWNER
    ]
    assert wrong == []


def test_every_module_that_calls_itself_pure_stands_in_the_pure_contract() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    [pure] = [each for each in contracts["contracts"] if each["id"] == "pure-core"]
    listed = set(pure["source_modules"])
    missing = []
    for path in _product(COMMON):
        said = ast.get_docstring(ast.parse(path.read_text())) or ""
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        parents = {name[: at.start()] for at in re.finditer(r"\.|$", name)}
        if re.search(r"\bPure\b", said) and not parents & listed:
            missing.append(name)
    assert missing == []


def test_every_broker_is_built_and_tested_like_the_others() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    [anatomy] = [each for each in contracts["contracts"] if each["id"] == "backend-anatomy"]
    kinds = get_args(CommonSettings.model_fields["broker_kind"].annotation)
    assert sorted(anatomy["containers"]) == sorted(f"services.common.stream.{k}" for k in kinds)
    for kind in kinds:
        suite = (COMMON / "tests" / f"test_stream_{kind}.py").read_text()
        assert "(BrokerConformance)" in suite, kind


def test_the_map_of_the_log_names_every_module() -> None:
    package = COMMON / "stream"
    told = ast.get_docstring(ast.parse((package / "__init__.py").read_text())) or ""
    named = set(re.findall(r"\b([a-z_]+)\.py\b", told))
    missing = [
        str(path.relative_to(package))
        for path in _product(package)
        if path.name != "__init__.py" and path.stem not in named
    ]
    assert missing == []
    assert sorted(named - {path.stem for path in package.rglob("*.py")}) == []
