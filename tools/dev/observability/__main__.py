"""`python -m tools.dev.observability`: are the made files what the code gives? Else `--write`."""

from __future__ import annotations

import argparse
import sys

from tools.dev.observability import dashboards, metrics_table, rules
from tools.dev.observability.rules import ROOT


def expected() -> dict[str, str]:
    """Every made file, by its path in the repository."""
    return {**dashboards.files(), **rules.files(), **metrics_table.files()}


def outdated() -> list[str]:
    """Made files that are missing or differ."""
    return sorted(
        name
        for name, text in expected().items()
        if not (ROOT / name).is_file() or (ROOT / name).read_text() != text
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="make them")
    changed = outdated()
    if parser.parse_args().write:
        for name in changed:
            (ROOT / name).parent.mkdir(parents=True, exist_ok=True)
            (ROOT / name).write_text(expected()[name])
        print(f"wrote {len(changed)} files")
        return 0
    for name in changed:
        print(f"not what the code gives; run `make dashboards`: {name}")
    return 1 if changed else 0


if __name__ == "__main__":
    sys.exit(main())
