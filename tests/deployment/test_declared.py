"""What a part imports is declared for it, and not only brought along by something else."""

from __future__ import annotations

import ast
import importlib.metadata
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
OURS = {"services", "tools", "market_data_fanout_client"}
NOT_SHIPPED = {"tests", "testing", "dev", "bench"}
# Each part, and by which extras it is installed.
PARTS = {
    "services/common": [""],
    "services/common/stores": ["gateway", "snapshotter", "tools"],
    "services/ingestor": ["ingestor"],
    "services/normalizer": ["normalizer"],
    "services/snapshotter": ["snapshotter"],
    "services/gateway": ["gateway"],
    "tools": ["tools"],
}


def _imported(tree: ast.AST) -> Iterator[str]:
    """Packages that are imported when the code runs."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]
        yield from _imported(node)


def imports(part: str) -> set[str]:
    deeper = [ROOT / other for other in PARTS if other.startswith(f"{part}/")]
    found: set[str] = set()
    for file in (ROOT / part).rglob("*.py"):
        beneath = any(file.is_relative_to(other) for other in deeper)
        if not beneath and not NOT_SHIPPED & set(file.relative_to(ROOT).parts):
            found.update(_imported(ast.parse(file.read_text())))
    return found - OURS - sys.stdlib_module_names


def declared(extra: str) -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"].get(extra, [])]
    return {canonicalize_name(Requirement(line).name) for line in lines}


@pytest.mark.parametrize(
    ("part", "extra"), [(part, extra) for part, extras in PARTS.items() for extra in extras]
)
def test_what_a_part_imports_is_declared_for_it(part: str, extra: str) -> None:
    brought_by = importlib.metadata.packages_distributions()
    found = imports(part)
    assert found
    undeclared = {
        package
        for package in found
        if not {canonicalize_name(name) for name in brought_by[package]} & declared(extra)
    }
    assert undeclared == set()
