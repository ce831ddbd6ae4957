"""What the documents point at exists."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def documents() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [ROOT / name for name in listed.stdout.splitlines()]


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text(), re.M))


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_document_links_to_files_and_targets_that_exist(path: Path) -> None:
    text = path.read_text()
    links = [
        link.partition("#")[0]
        for link in re.findall(r"\]\(([^)\s]+)\)", text)
        if not re.match(r"[a-z]+:|#", link)
    ]
    missing = [link for link in links if link and not (path.parent / link).exists()]
    assert missing == []
    named = set(re.findall(r"`(?:[A-Z_]+=\S* )*make ([a-z][a-z0-9-]*)", text))
    assert named - make_targets() == set()


def test_there_are_documents_to_check() -> None:
    assert {"README.md", "ARCHITECTURE.md", "AGENTS.md"} <= {path.name for path in documents()}
