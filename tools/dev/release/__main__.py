"""`python -m tools.dev.release`: the steps of the release workflow that no other program does.

version TAG                          print the version that the tag releases, or say what disagrees
chart REGISTRY DIGESTS OUTPUT        pack the umbrella with the digests in DIGESTS; print the file
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tools.dev.charts.helm import HelmFailed
from tools.dev.charts.workspace import ROOT
from tools.dev.release.chart import package, read_digests
from tools.dev.release.versions import NotReleasable, released


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
