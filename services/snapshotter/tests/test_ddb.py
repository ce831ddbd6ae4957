"""The table of latest rows, on a real DynamoDB API."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from services.common.errors import StoreMissing, StoreUnavailable
from services.common.settings import AwsSettings
from services.common.stores.dynamodb import DynamoLatestReader
from services.common.stores.ports import LatestRow
from services.common.stores.rows import BOOK_DEPTH, row_to_item
from services.common.stream import Position
from services.common.subjects import StreamKey
from services.snapshotter.ddb import RowStore
from services.snapshotter.s3 import CHECKPOINTS_KEPT, Bucket, CheckpointStore
from services.snapshotter.stream import View
from services.snapshotter.testing import Platform

BTC = StreamKey("coinbase", "book", "BTC-USD")


def row(position: Position, *, key: StreamKey = BTC, checkpoint: str | None = None) -> LatestRow:
    state = f'{{"seq":{position.seq}}}'.encode()
    return LatestRow(key, position, f"c{position.seq}", 1, 5, state, checkpoint)


@pytest.fixture
async def rows(platform: Platform) -> AsyncIterator[RowStore]:
    async with RowStore(platform.aws) as store:
        await store.ensure(create=True)
        yield store


async def test_whoever_writes_when_the_row_never_goes_backwards(
    platform: Platform, rows: RowStore
) -> None:
    positions = [Position(epoch, seq) for epoch in (1, 2) for seq in range(1, 60)]
    random.Random(3).shuffle(positions)
    seen: list[Position] = []

    async def write(some: list[Position]) -> int:
        return sum([await rows.put(row(position)) for position in some])

    async def watch() -> None:
        while not seen or seen[-1] != Position(2, 59):
            held = await platform.latest.get(BTC)
            if held is not None:
                assert held.state == f'{{"seq":{held.position.seq}}}'.encode()
                seen.append(held.position)

    async with asyncio.TaskGroup() as group:
        group.create_task(watch())
        writers = [group.create_task(write(positions[n::4])) for n in range(4)]
    assert seen == sorted(seen)
    written = sum(writer.result() for writer in writers)
    assert 1 <= written <= len(positions)
    assert not await rows.put(row(Position(2, 59)))
    assert not await rows.put(row(Position(1, 10**9)))
    assert await rows.put(row(Position(3, 1)))


async def test_checkpoint_is_named_only_by_the_row_of_its_position(
    platform: Platform, rows: RowStore
) -> None:
    await rows.put(row(Position(1, 5)))
    assert not await rows.name_checkpoint(BTC, Position(1, 4), "old")
    assert not await rows.name_checkpoint(BTC._replace(product="X"), Position(1, 5), "none")
    assert await rows.name_checkpoint(BTC, Position(1, 5), "here")
    assert await platform.latest.get(BTC) == row(Position(1, 5), checkpoint="here")
    assert await platform.latest.get(BTC._replace(product="X")) is None


async def test_a_book_of_40000_levels_a_side_stays_a_small_item_and_its_checkpoint_comes_back(
    platform: Platform, rows: RowStore
) -> None:
    view = View(BTC)
    bids = [[f"{price}.{cents:02d}", "0.12345678"] for price in range(400) for cents in range(100)]
    asks = [
        [f"{price}.{cents:02d}", "1.00000000"] for price in range(500, 900) for cents in range(100)
    ]
    view.fold.book.replace(bids, asks)
    view.load(Position(1, 2), "cursor", view.fold.state())
    latest_row = view.row(1, 7)
    assert latest_row is not None
    item = row_to_item(latest_row)
    assert sum(len(str(value)) for value in item.values()) < 8_000
    assert await rows.put(latest_row)
    image = view.changed_book(1, 7)
    assert image is not None
    checkpoint = image.encoded()
    assert checkpoint.state == view.fold.state()
    async with Bucket(platform.aws) as bucket:
        await bucket.ensure(create=True)
        key, size = await CheckpointStore(bucket).write(image)
        assert size < len(checkpoint.state) / 4
        assert await platform.store.get_checkpoint(key) == checkpoint
    restored = View(BTC)
    restored.load(checkpoint.position, checkpoint.cursor, checkpoint.state)
    assert len(restored.fold.book) == 80_000
    assert restored.fold.book == view.fold.book
    assert len(restored.fold.book.bids(BOOK_DEPTH)) == BOOK_DEPTH


async def test_only_the_newest_checkpoints_are_kept(platform: Platform) -> None:
    async with Bucket(platform.aws) as bucket:
        await bucket.ensure(create=True)
        written = []
        store = CheckpointStore(bucket)
        for seq in range(1, 8):
            # Every other one by a process that has just started.
            if seq % 2:
                store = CheckpointStore(bucket)
            view = View(BTC)
            view.load(Position(1, seq), "c", b'{"bids":[],"asks":[]}')
            checkpoint = view.changed_book(0, 0)
            assert checkpoint is not None
            key, _ = await store.write(checkpoint)
            await store.prune(BTC, key)
            written.append(key)
            assert await bucket.keys("checkpoints/") == written[-CHECKPOINTS_KEPT:]


async def test_missing_table_and_bucket_are_refused_when_they_may_not_be_made(
    platform: Platform,
) -> None:
    async with RowStore(platform.aws) as store, Bucket(platform.aws) as bucket:
        with pytest.raises(StoreMissing, match="in production none is made"):
            await store.ensure(create=False)
        with pytest.raises(StoreMissing, match="in production none is made"):
            await bucket.ensure(create=False)
        # As when it was dropped under a running service: nobody here thought of making one.
        with pytest.raises(StoreMissing, match=r"'test-latest' does not exist$"):
            await store.put(row(Position(1, 1)))
        with pytest.raises(StoreMissing):
            await bucket.put("k", b"", "text/plain")


async def test_making_table_and_bucket_twice_at_once_is_fine(platform: Platform) -> None:
    async with RowStore(platform.aws) as store, Bucket(platform.aws) as bucket:
        await asyncio.gather(*(store.ensure(create=True) for _ in range(3)))
        await asyncio.gather(*(bucket.ensure(create=True) for _ in range(3)))
        await store.ping()
        await bucket.ping()


async def test_bucket_is_made_in_another_region(platform: Platform) -> None:
    aws = platform.aws.model_copy(update={"aws_region": "eu-west-1"})
    async with Bucket(aws) as bucket:
        await bucket.ensure(create=True)
        await bucket.ping()


async def test_stores_that_do_not_answer_are_unavailable(platform: Platform) -> None:
    aws = AwsSettings(aws_endpoint_url="http://127.0.0.1:1")
    async with (
        RowStore(aws) as store,
        Bucket(aws) as bucket,
        DynamoLatestReader(aws) as latest,
    ):
        with pytest.raises(StoreUnavailable):
            await store.put(row(Position(1, 1)))
        with pytest.raises(StoreUnavailable):
            await bucket.get("x")
        with pytest.raises(StoreUnavailable):
            await latest.get(BTC)
