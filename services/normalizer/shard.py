"""Names for the shards that a normalizer works on: `all`, `3`, `0-3`, `1_4-6`. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from services.common.sharding import parse_shards

__all__ = ["parse_shards", "shard_label"]


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
