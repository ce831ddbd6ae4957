"""The version of a release, in every place that states it."""

from __future__ import annotations

import tomllib
from pathlib import Path

import yaml

from tools.dev.charts.workspace import CHARTS, UMBRELLA


class NotReleasable(Exception):
    """The tree and the tag do not agree; the message says where."""


def versions(root: Path) -> dict[str, str]:
    """Where a version is stated, and which."""
    found = {
        "pyproject.toml": tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    }
    charts = {f"helm/{name}": root / "helm" / name for name in (*CHARTS, "common")}
    for name, folder in (charts | {f"charts/{UMBRELLA}": root / "charts" / UMBRELLA}).items():
        chart = yaml.safe_load((folder / "Chart.yaml").read_text())
        found[f"{name}/Chart.yaml version"] = chart["version"]
        if name.rpartition("/")[2] not in ("common", "nats"):
            # The library has no application, and NATS has one of its own.
            found[f"{name}/Chart.yaml appVersion"] = chart["appVersion"]
    return found


def released(root: Path, tag: str) -> str:
    """The version that a tag such as v1.2.3 releases.

    Raises:
        NotReleasable: the tag has another form, or some place states another version.
    """
    version = tag.removeprefix("v")
    if not tag.startswith("v"):
        raise NotReleasable(f"{tag!r} is not a tag such as v1.2.3")
    other = [f"{where} is {v}" for where, v in versions(root).items() if v != version]
    if other:
        raise NotReleasable(f"the tag says {version}; " + ", ".join(other))
    return version
