"""`README.md` of every chart: its values, from the comments in values.yaml."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import yaml

from tools.dev.charts.values import read_values
from tools.dev.charts.workspace import CHARTS, UMBRELLA, Workspace


def readmes(workspace: Workspace) -> dict[str, str]:
    """The text of every file, by its path below the workspace."""
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
