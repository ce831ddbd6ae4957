"""`python -m tools.dev.release`: the steps of the release workflow that no other program does.

version TAG                          print the version that the tag releases, or say what disagrees
chart REGISTRY DIGESTS OUTPUT        pack the umbrella with the digests in DIGESTS; print the file
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path

import yaml
from ruamel.yaml import YAML

from tools.dev.charts.workspace import CHARTS, ROOT, SERVICES, UMBRELLA, Helm, HelmFailed, Workspace

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


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


def read_digests(folder: Path) -> dict[str, str]:
    """The digest of each service's image, from the files `<service>.digest`.

    Raises:
        NotReleasable: one is missing, or is none.
    """
    found = {}
    for service in SERVICES:
        file = folder / f"{service}.digest"
        if not file.is_file():
            raise NotReleasable(f"there is no {file.name}: the image of {service} was not built")
        text = file.read_text().strip()
        if not _DIGEST.fullmatch(text):
            raise NotReleasable(f"{file.name} holds {text!r}, which is no digest")
        found[service] = text
    return found


def package(registry: str, digests: Mapping[str, str], output: Path) -> Path:
    """Pack the umbrella with these digests as its defaults; the file it made.

    Each service names the registry itself: `global.imageRegistry` would move NATS there too.
    """
    with Helm() as helm, tempfile.TemporaryDirectory() as folder:
        workspace = Workspace.copy(helm, Path(folder))
        values = workspace.chart(UMBRELLA) / "values.yaml"
        editor = YAML()
        editor.preserve_quotes = True
        document = editor.load(values)
        document["global"]["imageDigests"] = dict(digests)
        for service in SERVICES:
            document[service]["image"] = {"registry": registry}
        editor.dump(document, values)
        workspace.build()
        output.mkdir(parents=True, exist_ok=True)
        told = helm.run(
            "package", str(workspace.chart(UMBRELLA)), "--destination", str(output.absolute())
        )
    return Path(told.strip().rpartition(": ")[2])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tools.dev.release",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("version").add_argument("tag")
    chart = commands.add_parser("chart")
    chart.add_argument("registry")
    chart.add_argument("digests", type=Path)
    chart.add_argument("output", type=Path)
    given = parser.parse_args(arguments)
    try:
        if given.command == "version":
            print(released(ROOT, given.tag))
        else:
            print(package(given.registry, read_digests(given.digests), given.output))
    except (HelmFailed, NotReleasable) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
