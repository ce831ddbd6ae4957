"""Which shard a product belongs to: the same answer in every process, restart and language.

`shard = jump_consistent_hash(xxh64(utf8(product), seed=0), shard_count)`. Both halves are
published: XXH64 by Yann Collet, the jump hash by Lamping and Veach, "A Fast, Minimal Memory,
Consistent Hash Algorithm" (2014). Test vectors stand in docs/sharding.md and in the tests.
"""

from __future__ import annotations

import re
from functools import lru_cache

import xxhash

_MASK64 = (1 << 64) - 1
_SHARDS = re.compile(r"(\d{1,4})(?:-(\d{1,4}))?", re.ASCII)


def hash64(product: str) -> int:
    """XXH64 (seed 0) of the product's UTF-8 bytes, as an unsigned 64-bit integer."""
    return xxhash.xxh64_intdigest(product.encode())


def jump_consistent_hash(key: int, buckets: int) -> int:
    """Bucket of `key` in `range(buckets)`; going from n to n+1 buckets moves 1/(n+1) of the keys.

    Raises:
        ValueError: `buckets` is below 1, or `key` is not an unsigned 64-bit integer.
    """
    if buckets < 1:
        raise ValueError(f"buckets must be at least 1, got {buckets}")
    if not 0 <= key <= _MASK64:
        raise ValueError(f"key must be an unsigned 64-bit integer, got {key}")
    bucket, jump = -1, 0
    while jump < buckets:
        bucket = jump
        key = (key * 2862933555777941757 + 1) & _MASK64
        jump = int((bucket + 1) * ((1 << 31) / ((key >> 33) + 1)))
    return bucket


@lru_cache(maxsize=65_536)
def shard_of(product: str, shard_count: int) -> int:
    """The shard that holds all channels of `product`."""
    return jump_consistent_hash(hash64(product), shard_count)


def parse_shards(text: str, shard_count: int) -> frozenset[int]:
    """The shards that a setting names: `all`, `3`, `0-3`, `1,4-6`.

    Raises:
        ValueError: it does not have that form, or names a shard that does not exist; the message
            says what is expected.
    """
    shards: set[int] = set()
    for part in text.split(","):
        name = part.strip()
        if name.lower() == "all":
            shards.update(range(shard_count))
            continue
        match = _SHARDS.fullmatch(name)
        if match is None:
            raise ValueError(
                f"expected `all`, or shards like `0-3` or `1,4-6`; {part!r} is neither"
            )
        first = int(match[1])
        last = int(match[2] or first)
        if last < first:
            raise ValueError(f"expected a range from low to high, got {name!r}")
        if last >= shard_count:
            raise ValueError(f"expected shards below SHARD_COUNT={shard_count}, got {last}")
        shards.update(range(first, last + 1))
    return frozenset(shards)
