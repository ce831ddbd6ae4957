"""`python -m tools.dev.lint`: one line for each linter, status 1 if one found something.

A linter that this machine cannot run is named and passed over; on GitHub's runners, which can run
all of them, that is a fault.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tools.dev.lint.checks import CHECKS, Check, NotHere, files_of, run

ROOT = Path(__file__).resolve().parents[3]


def report(check: Check, root: Path, *, everywhere: bool) -> tuple[bool, str]:
    """Whether it passes, and what to print."""
    try:
        found = run(check, root)
    except NotHere as why:
        line = f"{check.title:<24} not checked: {why}"
        return not everywhere, f"{'FAIL' if everywhere else '--'}    {line}"
    if found:
        return False, f"FAIL  {check.title}\n{found}"
    files = files_of(check, root)
    return True, f"ok    {check.title:<24} {f'{len(files)} files' if files else ''}".rstrip()


def main(root: Path = ROOT) -> int:
    everywhere = os.environ.get("GITHUB_ACTIONS") == "true"
    with ThreadPoolExecutor() as pool:
        results = list(pool.map(lambda check: report(check, root, everywhere=everywhere), CHECKS))
    for _, text in results:
        print(text)
    return 0 if all(passed for passed, _ in results) else 1


if __name__ == "__main__":
    sys.exit(main())
