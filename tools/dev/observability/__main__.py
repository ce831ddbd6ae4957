"""`python -m tools.dev.observability`: are the made files what the code gives? Else `--write`."""

from __future__ import annotations

import argparse
import sys

from tools.dev.generated import outdated, write
from tools.dev.observability import dashboards, metrics_table, rules


def expected() -> dict[str, str]:
    """Every made file, by its path in the repository."""
    return {**dashboards.files(), **rules.files(), **metrics_table.files()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="make them")
    if parser.parse_args().write:
        print(f"wrote {write(expected())} files")
        return 0
    changed = outdated(expected())
    for name in changed:
        print(f"not what the code gives; run `make dashboards`: {name}")
    return 1 if changed else 0


if __name__ == "__main__":
    sys.exit(main())
