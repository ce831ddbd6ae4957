"""The clients are packages of their own: they import nothing of the platform."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path

CLIENTS = Path(__file__).resolve().parents[2]


def imported(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}: relative import"
            found.add((node.module or "").split(".")[0])
    return found


def test_no_package_imports_the_platform_and_the_sdk_only_websockets() -> None:
    for file in CLIENTS.rglob("*.py"):
        if "tests" not in file.parts:
            assert not imported(file) & {"services", "tools"}, file
    sdk = set().union(*map(imported, (CLIENTS / "python" / "src").rglob("*.py")))
    outside = {"websockets", "market_data_fanout_client"}
    assert sdk - set(sys.stdlib_module_names) == outside


def test_the_javascript_package_depends_on_nothing() -> None:
    package = json.loads((CLIENTS / "js" / "package.json").read_text())
    assert "dependencies" not in package
    assert "devDependencies" not in package
    assert package["peerDependenciesMeta"]["react"]["optional"]
