"""The pins are complete, and are installed without anything being resolved."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / "requirements"
FILES = sorted(REQUIREMENTS.glob("*.txt"))
# What a set-up may be made for; the marker variables in which these differ.
MACHINES = [
    {
        "python_version": python,
        "python_full_version": f"{python}.1",
        "sys_platform": system,
        "platform_system": {"linux": "Linux", "darwin": "Darwin"}[system],
        "platform_machine": machine,
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "os_name": "posix",
        "extra": "",
    }
    for python in ("3.12", "3.13", "3.14")
    for system, machine in (("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64"))
]


def pinned(file: Path) -> list[Requirement]:
    lines = file.read_text().splitlines()
    entries = [line for line in lines if line and not line.startswith(("#", " "))]
    return [Requirement(entry.removesuffix("\\").strip()) for entry in entries]


def applies(requirement: Requirement, machine: dict[str, str], extra: str = "") -> bool:
    marker = requirement.marker
    return marker is None or marker.evaluate({**machine, "extra": extra})


def roots(file: Path) -> list[Requirement]:
    """What a file's pins are there for."""
    if file.with_suffix(".in").exists():
        lines = file.with_suffix(".in").read_text().splitlines()
        asked = [Requirement(line) for line in lines if line and not line.startswith("#")]
        if file.stem != "dev":
            return asked
    else:
        asked = []
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = extras.values() if file.stem == "dev" else [extras[file.stem]]
    return [
        *asked,
        *map(Requirement, project["dependencies"]),
        *(Requirement(line) for names in wanted for line in names),
    ]


def missing(file: Path, machine: dict[str, str]) -> Iterator[str]:
    """What the pins of `file` need on a machine, by their own metadata, and do not hold."""
    pins = {canonicalize_name(pin.name): pin for pin in pinned(file) if applies(pin, machine)}
    todo = [(one, "asked for") for one in roots(file) if applies(one, machine)]
    seen: set[tuple[str, str]] = set()
    while todo:
        wanted, by = todo.pop()
        name = canonicalize_name(wanted.name)
        pin = pins.get(name)
        if pin is None:
            yield f"{name} ({by}) is not pinned"
            continue
        (version,) = (one.version for one in pin.specifier)
        if not wanted.specifier.contains(version, prereleases=True):
            yield f"{name}=={version} is pinned, {by} wants {wanted.specifier}"
        for extra in ("", *sorted(wanted.extras)):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            try:
                needs = importlib.metadata.requires(name) or []
            except importlib.metadata.PackageNotFoundError:
                # Pinned for another kind of machine than this; its own needs cannot be read here.
                continue
            todo += [
                (need, f"needed by {name}{f'[{extra}]' if extra else ''}")
                for need in map(Requirement, needs)
                if applies(need, machine, extra)
            ]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_requirements_file_pins_all_that_its_pins_need(file: Path) -> None:
    assert pinned(file)
    for machine in MACHINES:
        assert list(missing(file, machine)) == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_pin_is_exact_and_hashed_and_names_no_address(file: Path) -> None:
    text = file.read_text()
    for entry in re.split(r"\n(?=[a-z])", text):
        assert re.match(r"^[a-z0-9][a-z0-9-]*==[\w.]+", entry), entry[:60]
        assert "--hash=sha256:" in entry, entry[:60]
    assert "://" not in text


def test_an_extra_that_is_not_pinned_is_seen(tmp_path: Path) -> None:
    """`coverage[toml]` is asked for: a release that brings more would not be held."""
    (tmp_path / "some.in").write_text("pytest-cov\n")
    kept = [pin for pin in pinned(REQUIREMENTS / "dev.txt") if pin.name != "coverage"]
    (tmp_path / "some.txt").write_text("\n".join(map(str, kept)))
    assert list(missing(tmp_path / "some.txt", MACHINES[0])) == [
        "coverage (needed by pytest-cov) is not pinned"
    ]


def test_nothing_is_resolved_where_pins_are_installed() -> None:
    """Any `pip install`, here, in an image or in a workflow, is without a resolver."""
    places = [
        ROOT / "tools" / "setup.sh",
        *ROOT.glob("services/*/Dockerfile"),
        ROOT / "tools" / "Dockerfile",
        *(ROOT / ".github" / "workflows").glob("*.yml"),
    ]
    commands = [
        command
        for place in places
        for command in re.findall(
            r"\b(?:pip|\"\$\{?pip\}?\")[^\n|&]*?\binstall\b.*?(?=&&|\n[^ \t\"-]|\Z)",
            re.sub(r"#.*", "", place.read_text()).replace("\\\n", " "),
        )
    ]
    assert len(commands) > 10
    for command in commands:
        assert "--no-deps" in command.partition("install")[2], command


def test_a_newer_python_is_found_behind_a_version_that_pyenv_does_not_have(tmp_path: Path) -> None:
    """pyenv's shims all fail where `.python-version` names a version that is not installed."""
    project = tmp_path / "a clone"
    (project / "tools").mkdir(parents=True)
    (project / "requirements").mkdir()
    shutil.copy(ROOT / "tools" / "setup.sh", project / "tools")
    for name in ("build", "dev"):
        (project / "requirements" / f"{name}.txt").write_text("")
    shims, versions = tmp_path / "shims", tmp_path / "pyenv" / "versions" / "3.13.7" / "bin"
    shims.mkdir()
    versions.mkdir(parents=True)
    # Names itself when asked which it is, and would make an environment.
    program(
        versions / "python",
        'case "$*" in "-m venv"*) echo "made by $0"; exit 3 ;; *version_info*) echo "$0" ;; esac',
    )
    program(shims / "pyenv", f'[ "$1" = root ] && echo "{tmp_path}/pyenv"')
    for name in ("python3.12", "python3.13", "python3.14", "python3", "python"):
        program(shims / name, "echo 'pyenv: version 3.12 is not installed' >&2; exit 1")

    done = subprocess.run(
        [project / "tools" / "setup.sh"],
        env={"PATH": f"{shims}:{os.defpath}"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stdout == f"made by {versions / 'python'}\n"
    assert done.returncode == 3


def test_a_machine_without_a_usable_python_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "tools" / "setup.sh", tmp_path / "tools")
    shims = tmp_path / "shims"
    shims.mkdir()
    for name in ("python3.12", "python3.13", "python3.14", "python3", "python"):
        program(shims / name, "exit 1")
    done = subprocess.run(
        [tmp_path / "tools" / "setup.sh"],
        env={"PATH": f"{shims}:{os.defpath}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("No Python of at least 3.12 was found")


def program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
