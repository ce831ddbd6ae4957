"""The shard of a product: published hashes, by their published answers."""

from __future__ import annotations

import random
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.sharding import hash64, jump_consistent_hash, shard_of

DOCS = Path(__file__).resolve().parents[3] / "docs" / "sharding.md"


@pytest.mark.parametrize(
    ("text", "digest"),
    [
        ("", 0xEF46DB3751D8E999),
        ("a", 0xD24EC4F1A98C6E5B),
        ("abc", 0x44BC2CF5AD770999),
        ("Nobody inspects the spammish repetition", 0xFBCEA83C8A378BF1),
    ],
)
def test_the_64_bit_hash_is_xxh64_with_seed_0(text: str, digest: int) -> None:
    assert hash64(text) == digest


@pytest.mark.parametrize(
    ("key", "buckets", "bucket"),
    [
        (1, 1, 0),
        (42, 57, 43),
        (0xDEAD10CC, 1, 0),
        (0xDEAD10CC, 666, 361),
        (256, 1024, 520),
    ],
)
def test_the_bucket_is_that_of_the_published_jump_hash(key: int, buckets: int, bucket: int) -> None:
    assert jump_consistent_hash(key, buckets) == bucket


def test_the_vectors_in_the_documentation_hold() -> None:
    rows = re.findall(
        r"^\| `([^`]+)` \| `0x([0-9A-F]{16})` \| (\d+) \| (\d+) \| (\d+) \| (\d+) \| (\d+) \|$",
        DOCS.read_text(),
        re.MULTILINE,
    )
    assert len(rows) >= 8
    for product, digest, *shards in rows:
        assert hash64(product) == int(digest, 16)
        expected = [shard_of(product, count) for count in (4, 8, 9, 16, 32)]
        assert [int(shard) for shard in shards] == expected


@given(st.integers(0, 2**64 - 1), st.integers(1, 1024))
def test_a_further_bucket_takes_keys_and_moves_none_between_the_others(
    key: int, buckets: int
) -> None:
    before, after = jump_consistent_hash(key, buckets), jump_consistent_hash(key, buckets + 1)
    assert 0 <= before < buckets
    assert after in (before, buckets)


def product_ids(count: int) -> list[str]:
    """As many names as a large venue has products, in their shape."""
    pick = random.Random(20_250_818)
    names: set[str] = set()
    while len(names) < count:
        base = "".join(
            pick.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ", k=pick.choice([3, 3, 3, 4, 4, 5]))
        )
        names.add(
            f"{base}-{pick.choice(['USD', 'USD', 'USD', 'EUR', 'GBP', 'USDC', 'USDT', 'BTC'])}"
        )
    return sorted(names)


@pytest.mark.parametrize("shard_count", [2, 4, 8, 16])
def test_products_are_spread_evenly(shard_count: int) -> None:
    products = product_ids(717)
    held = Counter(shard_of(product, shard_count) for product in products)
    mean = len(products) / shard_count
    deviation = (mean * (1 - 1 / shard_count)) ** 0.5
    assert set(held) == set(range(shard_count))
    assert all(abs(count - mean) < 3.5 * deviation for count in held.values())


@pytest.mark.parametrize("shard_count", [4, 8, 15])
def test_growth_by_one_moves_the_share_of_the_new_shard_and_no_more(shard_count: int) -> None:
    products = product_ids(717)
    moved = [p for p in products if shard_of(p, shard_count) != shard_of(p, shard_count + 1)]
    assert all(shard_of(product, shard_count + 1) == shard_count for product in moved)
    share = 1 / (shard_count + 1)
    deviation = (len(products) * share * (1 - share)) ** 0.5
    assert abs(len(moved) - len(products) * share) < 3.5 * deviation


@pytest.mark.parametrize(("key", "buckets"), [(0, 0), (0, -1), (-1, 8), (2**64, 8)])
def test_what_has_no_bucket_is_refused(key: int, buckets: int) -> None:
    with pytest.raises(ValueError, match="must be"):
        jump_consistent_hash(key, buckets)
