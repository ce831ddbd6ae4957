"""Which shards a normalizer works on: `all`, `3`, `0-3`, `1,4-6`. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise

_PART = re.compile(r"(\d{1,4})(?:-(\d{1,4}))?", re.ASCII)


def parse_shards(text: str, shard_count: int) -> frozenset[int]:
    """Read `NORMALIZER_SHARDS`.

    Raises:
        ValueError: it does not have that form, or names a shard that does not exist; the message
            says what is expected.
    """
    if text.strip().lower() == "all":
        return frozenset(range(shard_count))
    shards: set[int] = set()
    for part in text.split(","):
        match = _PART.fullmatch(part.strip())
        if match is None:
            raise ValueError(
                f"expected `all`, or shards like `0-3` or `1,4-6`; {part!r} is neither"
            )
        first = int(match[1])
        last = int(match[2] or first)
        if last < first:
            raise ValueError(f"expected a range from low to high, got {part.strip()!r}")
        if last >= shard_count:
            raise ValueError(f"expected shards below SHARD_COUNT={shard_count}, got {last}")
        shards.update(range(first, last + 1))
    return frozenset(shards)


def shard_label(shards: Iterable[int], shard_count: int) -> str:
    """One name for a set of shards, however it was written: `all`, `0-3`, `1_4-6`.

    It becomes part of a consumer group's name, where neither `,` nor `.` is allowed.
    """
    ordered = sorted(set(shards))
    if len(ordered) == shard_count:
        return "all"
    starts = [ordered[0], *(b for a, b in pairwise(ordered) if b != a + 1)]
    ends = [*(a for a, b in pairwise(ordered) if b != a + 1), ordered[-1]]
    runs = zip(starts, ends, strict=True)
    return "_".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
