"""Mutation testing of what decides: does a test fail when one thing in a rule is changed?

Each module is changed in a copy of the tree, in one place at a time, and judged by the tests that
state its rules. What survives is a rule that no test states, or a change that nobody can tell from
outside; `docs/testing.md` argues the latter.
"""

from __future__ import annotations

import ast
import difflib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import click
import yaml

from tools.dev.captured import captured

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("services", "tools", "clients", "docs", "conftest.py", "pyproject.toml", "README.md")
SETTINGS = """
[tool.mutmut]
source_paths = ["services"]
only_mutate = {paths}
also_copy = ["conftest.py", "clients", "tools", "docs", "README.md"]
pytest_add_cli_args = ["--hypothesis-profile=mutants"]
pytest_add_cli_args_test_selection = {tests}
"""
# What mutmut notes for a change that no test noticed, and for one that no test runs.
ALIVE = (0, 33)


class Module(NamedTuple):
    """What is changed, and the tests that state its rules (`mutants.yaml`)."""

    path: str
    tests: list[str]


MODULES = {
    name: Module(
        f"services/{path}",
        [f"services/{path.split('/')[0]}/tests/test_{test}.py" for test in tests],
    )
    for name, (path, *tests) in yaml.safe_load(
        Path(__file__).with_suffix(".yaml").read_text()
    ).items()
}


class Outcome(NamedTuple):
    all: int
    alive: list[str]


def missing(names: Iterable[str]) -> list[str]:
    """The files that these modules name and the tree does not hold."""
    named = {path for name in names for path in (MODULES[name].path, *MODULES[name].tests)}
    return sorted(path for path in named if not (ROOT / path).is_file())


def run(module: Module, home: Path, processes: int) -> Outcome:
    """Change `module` in every way mutmut knows, in a copy of the tree at `home`.

    Raises:
        click.ClickException: its tests fail without any change, or do not run it.
    """
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("node_modules", "__pycache__")
            shutil.copytree(source, home / name, ignore=ignored)
        else:
            shutil.copy(source, home / name)
    with (home / "pyproject.toml").open("a") as settings:
        paths = json.dumps([module.path])
        settings.write(SETTINGS.format(paths=paths, tests=json.dumps(module.tests)))
    command = (sys.executable, "-m", "mutmut", "run", "--max-children", str(processes))
    done = captured(*command, cwd=home)
    if done.returncode:
        raise click.ClickException(f"{module.path}: {done.stdout[-4000:]}{done.stderr[-4000:]}")
    noted = json.loads((home / "mutants" / f"{module.path}.meta").read_text())
    codes: dict[str, int | None] = noted["exit_code_by_key"]
    return Outcome(len(codes), [name for name, code in codes.items() if code in ALIVE])


def changes(module: Module, names: list[str], home: Path) -> Iterator[str]:
    """What was changed, in a few lines each."""
    text = (home / "mutants" / module.path).read_text()
    functions = {
        node.name: ast.unparse(node).replace(node.name, node.name.rsplit("__mutmut_", 1)[0], 1)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    for name in (name.rsplit(".", 1)[-1] for name in names):
        stem, number = name.rsplit("__mutmut_", 1)
        before, after = functions[f"{stem}__mutmut_orig"], functions[name]
        lines = difflib.ndiff(before.splitlines(), after.splitlines())
        changed = [f"    {line}" for line in lines if line.startswith(("-", "+"))]
        yield "\n".join([f"  {stem} {number}", *changed])


@click.command(help=__doc__)
@click.argument("names", nargs=-1, metavar="[MODULE]...")
@click.option("--processes", default=2, help="Tests at once.")
def main(names: tuple[str, ...], processes: int) -> None:
    if unknown := set(names) - set(MODULES):
        raise click.UsageError(f"{', '.join(sorted(unknown))}: one of {', '.join(MODULES)}")
    names = names or tuple(MODULES)
    if absent := missing(names):
        raise click.ClickException(f"no such file: {', '.join(absent)}")
    rows: list[tuple[str, int, int]] = []
    os.nice(5)
    for name in names:
        with tempfile.TemporaryDirectory(prefix="mutants-") as made:
            home = Path(made)
            outcome = run(MODULES[name], home, processes)
            rows.append((name, outcome.all - len(outcome.alive), outcome.all))
            click.echo(f"{name}: {len(outcome.alive)} of {outcome.all} were not noticed")
            for text in changes(MODULES[name], outcome.alive, home):
                click.echo(text)
    click.echo("\n| module | noticed | changes |\n|---|---|---|")
    for name, noticed, total in rows:
        click.echo(f"| {name} | {noticed} | {total} |")
    click.echo(f"| all | {sum(row[1] for row in rows)} | {sum(row[2] for row in rows)} |")


if __name__ == "__main__":
    main()
