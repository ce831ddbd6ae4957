"""Two archives of one log, as of two processes that overlap: each record is there once."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator, Sequence

import pytest

from services.common.errors import StoreUnavailable
from services.common.stores.index import Head
from services.common.stores.layout import TICKS
from services.common.stores.s3_archive import ArchiveIndex
from services.common.stream import Record
from services.common.subjects import StreamKey
from services.common.testing.tick_records import START, TickStream
from services.snapshotter.batch import Batch, SealedBatch
from services.snapshotter.s3 import ArchiveLog, Bucket
from services.snapshotter.testing import Platform

LOG = "tick.0"
BTC = StreamKey("coinbase", "trades", "BTC-USD")
ETH = StreamKey("coinbase", "trades", "ETH-USD")


class ForgetfulBucket(Bucket):
    """Its first deletes fail."""

    fails = 1

    async def delete(self, keys: Sequence[str]) -> None:
        if keys and self.fails:
            self.fails -= 1
            raise StoreUnavailable("s3", "SlowDown")
        await super().delete(keys)


@pytest.fixture
async def bucket(platform: Platform) -> AsyncIterator[ForgetfulBucket]:
    async with ForgetfulBucket(platform.aws) as opened:
        await opened.ensure(create=True)
        yield opened


def batch_of(records: Sequence[tuple[StreamKey, Record]]) -> SealedBatch:
    batch = Batch(TICKS, period_s=1, max_bytes=10**6, max_records=1000)
    for number, (key, record) in enumerate(records):
        head = Head(record.position, f"c{number}")
        ts = START + record.position.seq
        batch.add(key, 0, head, ts, record.payload, 0.0, refilled=False)
    return batch.seal()


async def indexed(bucket: Bucket) -> list[bytes]:
    """Every line of the objects that a commit names."""
    index, lines, number = ArchiveIndex(bucket, LOG), [], 1
    while (commit := await index.commit(number)) is not None:
        for entry in commit.objects:
            stored = await bucket.get(entry.key)
            assert stored is not None
            lines += gzip.decompress(stored).splitlines()
        number += 1
    return lines


async def test_what_another_archived_first_is_deleted_though_that_fails_at_first(
    platform: Platform, bucket: ForgetfulBucket
) -> None:
    stream = TickStream(BTC, shard_count=1)
    records = [(BTC, record) for record in stream.many(10)]
    first, second = ArchiveLog(bucket, LOG), ArchiveLog(bucket, LOG)
    for archive in (first, second):
        await archive.restore()
    await first.write(batch_of(records[:6]))
    with pytest.raises(StoreUnavailable):
        await second.write(batch_of(records[:9]))
    await second.write(batch_of(records[:9]))
    due = [record.payload for _key, record in records[:9]]
    assert await indexed(bucket) == due
    assert await platform.lines("ticks/") == due


async def test_objects_that_begin_and_end_alike_do_not_replace_each_other(
    platform: Platform, bucket: ForgetfulBucket
) -> None:
    btc = [(BTC, record) for record in TickStream(BTC, shard_count=1).many(3)]
    # What stands between, the second process was not given yet.
    between = [(ETH, record) for record in TickStream(ETH, shard_count=1).many(2)]
    first, second = ArchiveLog(bucket, LOG), ArchiveLog(bucket, LOG)
    for archive in (first, second):
        await archive.restore()
    bucket.fails = 0
    both = [btc[0], *between, *btc[1:]]
    await first.write(batch_of(both))
    await second.write(batch_of(btc))
    await second.write(batch_of(between))
    due = sorted(record.payload for _key, record in both)
    assert sorted(await indexed(bucket)) == due
    assert sorted(await platform.lines("ticks/")) == due
