"""A commented values.yaml: its defaults, what its `# --` comments say, the README of both."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tools.dev.charts.workspace import CHARTS, UMBRELLA, Workspace

_LINE = re.compile(r"^(?P<indent> *)(?:# -- (?P<text>.*)|(?P<key>[A-Za-z_][\w.]*):)")


@dataclass(frozen=True, slots=True)
class Values:
    """`comments` are keyed by dotted path, as `helm --set` writes it."""

    defaults: dict[str, Any]
    comments: dict[str, str]

    def meaning(self, path: str) -> str:
        """The comment of a value, or of what it is part of; empty if there is none."""
        while path not in self.comments and "." in path:
            path = path.rpartition(".")[0]
        return self.comments.get(path, "")


def read_values(file: Path) -> Values:
    """Block style only: a comment belongs to the key on the line below it."""
    text = file.read_text()
    comments: dict[str, str] = {}
    path: list[tuple[int, str]] = []
    pending = ""
    for line in text.splitlines():
        found = _LINE.match(line)
        if found is None:
            pending = ""
            continue
        if found["text"] is not None:
            pending = found["text"]
            continue
        indent = len(found["indent"])
        path = [(depth, key) for depth, key in path if depth < indent]
        path.append((indent, found["key"]))
        if pending:
            comments[".".join(key for _, key in path)] = pending
            pending = ""
    return Values(yaml.safe_load(text), comments)


def readmes(workspace: Workspace) -> dict[str, str]:
    """The text of every chart's `README.md`, by its path below the workspace."""
    return {
        str((workspace.chart(name) / "README.md").relative_to(workspace.root)): _readme(
            workspace, name
        )
        for name in (*CHARTS, UMBRELLA)
    }


def _readme(workspace: Workspace, name: str) -> str:
    folder = workspace.chart(name)
    chart = yaml.safe_load((folder / "Chart.yaml").read_text())
    values = read_values(folder / "values.yaml")
    rows = [
        f"| `{path}` | `{json.dumps(default)}` | {values.meaning(path)} |"
        for path, default in _leaves(values.defaults)
    ]
    return "\n".join(
        (
            f"# {name}",
            "",
            chart["description"],
            "",
            "Installing, upgrading and what the values mean together: `docs/operations.md`.",
            "This table is made from `values.yaml` by `make manifests`.",
            "",
            "| value | default | meaning |",
            "|---|---|---|",
            *rows,
            "",
        )
    )


def _leaves(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
