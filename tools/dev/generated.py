"""Files of the repository that are made from code: are they what it gives?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def outdated(expected: Mapping[str, str]) -> list[str]:
    """Those, by their paths below `ROOT`, that are missing or differ."""
    return sorted(
        name
        for name, text in expected.items()
        if not (ROOT / name).is_file() or (ROOT / name).read_text() != text
    )


def write(expected: Mapping[str, str]) -> int:
    """Write what differs; how many files that were."""
    changed = outdated(expected)
    for name in changed:
        (ROOT / name).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / name).write_text(expected[name])
    return len(changed)
