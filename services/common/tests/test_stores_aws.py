"""The reading side on real DynamoDB and S3 APIs."""

from __future__ import annotations

import gzip
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from services.common.errors import StoreMissing, StoreUnavailable
from services.common.settings import AwsSettings
from services.common.stores.aws import READER, open_client
from services.common.stores.dynamodb import DynamoLatestReader
from services.common.stores.index import Commit, Head, IndexedObject, Span, next_commit, pack_commit
from services.common.stores.layout import commit_key, pending_key
from services.common.stores.ports import LatestRow
from services.common.stores.rows import KEY, row_to_item
from services.common.stores.s3 import S3Store
from services.common.stores.s3_archive import ArchiveIndex, S3ArchiveReader
from services.common.stream import Position, Record
from services.common.subjects import StreamKey
from services.common.testing.tick_records import TickStream
from tools.embedded import AwsServer

BTC = StreamKey("coinbase", "trades", "BTC-USD")
ETH = StreamKey("coinbase", "trades", "ETH-USD")


@pytest.fixture
def aws(aws_server: AwsServer, monkeypatch: pytest.MonkeyPatch) -> AwsSettings:
    for name, value in aws_server.environment.items():
        monkeypatch.setenv(name, value)
    return AwsSettings()


@pytest.fixture
async def table(aws: AwsSettings) -> AsyncIterator[Any]:
    async with open_client("dynamodb", aws, READER) as client:
        await client.create_table(
            TableName=aws.ddb_table,
            KeySchema=[{"AttributeName": KEY, "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": KEY, "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )
        yield client


@pytest.fixture
async def store(aws: AwsSettings) -> AsyncIterator[S3Store]:
    async with S3Store(aws) as opened:
        await opened.client.create_bucket(Bucket=aws.s3_bucket)
        yield opened


async def test_many_rows_come_in_batches_and_what_is_missing_is_left_out(
    aws: AwsSettings, table: Any
) -> None:
    keys = [StreamKey("coinbase", "ticker", f"P{n}") for n in range(230)]
    for n, key in enumerate(keys):
        row = LatestRow(key, Position(1, n), "c", 0, 0, b"{}")
        await table.put_item(TableName=aws.ddb_table, Item=row_to_item(row))
    async with DynamoLatestReader(aws) as latest:
        rows = await latest.get_many([*keys, *keys[:5], BTC])
        assert {key: row.position.seq for key, row in rows.items()} == {
            key: n for n, key in enumerate(keys)
        }
        assert await latest.get_many([]) == {}


async def test_a_foreign_item_is_no_row(aws: AwsSettings, table: Any) -> None:
    await table.put_item(TableName=aws.ddb_table, Item={KEY: {"S": str(BTC)}})
    async with DynamoLatestReader(aws) as latest:
        assert await latest.get(BTC) is None
        assert await latest.get_many([BTC]) == {}


async def test_a_missing_table_or_bucket_is_said_so(aws: AwsSettings) -> None:
    async with DynamoLatestReader(aws) as latest, S3Store(aws) as bucket:
        with pytest.raises(StoreMissing, match=aws.ddb_table):
            await latest.get_many([BTC])
        with pytest.raises(StoreMissing, match=aws.s3_bucket):
            await bucket.get("anything")
        with pytest.raises(StoreMissing):
            await bucket.ping()


async def test_readers_that_are_not_open_say_so(aws: AwsSettings) -> None:
    with pytest.raises(StoreUnavailable, match="not open"):
        await DynamoLatestReader(aws).get(BTC)
    with pytest.raises(StoreUnavailable, match="not open"):
        await S3Store(aws).get("x")


async def test_a_checkpoint_that_is_gone_or_garbage_is_none(store: S3Store) -> None:
    await store.put("checkpoints/x", b"garbage", "text/plain")
    reader = store
    assert await reader.get_checkpoint("checkpoints/x") is None
    assert await reader.get_checkpoint("checkpoints/y") is None


async def test_a_large_object_is_written_in_parts_and_comes_back_whole(
    aws: AwsSettings, store: S3Store
) -> None:
    part = 5 * 1024 * 1024
    content = random.Random(1).randbytes(2 * part + 4096)
    async with S3Store(aws, part_bytes=part) as parts:
        await parts.put("large", content, "application/gzip")
        assert await store.get("large") == content
        head = await store.client.head_object(Bucket=aws.s3_bucket, Key="large")
        # An object that was put in one piece has no number of parts in its tag.
        assert head["ETag"].endswith('-3"')
        assert head["ContentType"] == "application/gzip"


async def test_parts_of_an_object_that_failed_are_not_left_behind(
    aws: AwsSettings, store: S3Store
) -> None:
    # Parts below S3's least size: the last step is refused.
    async with S3Store(aws, part_bytes=1024) as parts:
        with pytest.raises(StoreUnavailable, match="EntityTooSmall"):
            await parts.put("broken", bytes(5000), "application/gzip")
    assert await store.get("broken") is None
    uploads = await store.client.list_multipart_uploads(Bucket=aws.s3_bucket)
    assert not uploads.get("Uploads")


async def write_commit(
    store: S3Store, previous: Commit | None, *groups: list[Record], ts: int = 0
) -> Commit:
    """A commit of one object for each group of records, as the snapshotter writes it."""
    number = previous.number + 1 if previous is not None else 1
    entries = []
    for n, records in enumerate(groups):
        spans: dict[str, Span] = {}
        for record in records:
            stream = ":".join(record.subject.split(".")[-3:])
            head = Head(record.position, "")
            held = spans.get(stream)
            first, count = (held.first, held.count) if held else (record.position, 0)
            spans[stream] = Span(first, head, count + 1)
        key = f"ticks/{number}-{n}.jsonl.gz"
        lines = b"".join(record.payload + b"\n" for record in records)
        await store.put(key, gzip.compress(lines), "application/gzip")
        entries.append(IndexedObject(key, spans))
    commit = next_commit("tick.0", previous, entries, ts)
    for name in (pending_key("tick.0"), commit_key("tick.0", number)):
        await store.put(name, pack_commit(commit), "application/gzip")
    return commit


async def read(store: S3Store, key: StreamKey, after: Position) -> list[bytes]:
    return [payload async for payload in S3ArchiveReader(store).read(key, 0, after)]


async def test_archive_is_read_from_every_position_over_commits_without_the_stream(
    store: S3Store,
) -> None:
    btc, eth = TickStream(BTC, shard_count=1), TickStream(ETH, shard_count=1)
    assert await read(store, BTC, Position(0, 0)) == []
    commit = None
    for round_ in range(12):
        with_btc = round_ in (1, 2, 9)
        groups = [[*btc.many(4), *eth.many(1)], btc.many(3)] if with_btc else []
        groups.append(eth.many(3))
        commit = await write_commit(store, commit, *groups)
    for key, stream in ((BTC, btc), (ETH, eth)):
        payloads = [record.payload for record in stream.records]
        assert await read(store, key, Position(0, 0)) == payloads
        for n, record in enumerate(stream.records):
            assert await read(store, key, record.position) == payloads[n + 1 :]
    assert await read(store, StreamKey("coinbase", "trades", "XRP-USD"), Position(0, 0)) == []


async def test_archive_goes_on_over_what_a_lifecycle_rule_removed(store: S3Store) -> None:
    btc = TickStream(BTC, shard_count=1)
    commit = None
    for _ in range(6):
        commit = await write_commit(store, commit, btc.many(4))
    await store.delete(["ticks/1-0.jsonl.gz", commit_key("tick.0", 1), "ticks/2-0.jsonl.gz"])
    payloads = [record.payload for record in btc.records]
    assert await read(store, BTC, Position(0, 0)) == payloads[8:]
    assert await read(store, BTC, btc.records[9].position) == payloads[10:]


async def test_how_far_a_stream_was_archived_at_a_time_is_found(store: S3Store) -> None:
    btc, eth = TickStream(BTC, shard_count=1), TickStream(ETH, shard_count=1)
    archive = S3ArchiveReader(store)
    assert await archive.reached(BTC, 0, 10) is None
    commit = None
    for number in range(1, 12):
        groups = [btc.many(2)] if number % 3 == 0 else [eth.many(1)]
        commit = await write_commit(store, commit, *groups, ts=number * 10)
    ends = [btc.records[2 * n - 1].position for n in range(1, 4)]
    for ts in range(130):
        held = [end for n, end in enumerate(ends, start=1) if n * 30 < ts]
        assert await archive.reached(BTC, 0, ts) == (held[-1] if held else None)
    await store.delete([commit_key("tick.0", number) for number in range(1, 7)])
    assert await archive.reached(BTC, 0, 61) is None
    assert await archive.reached(BTC, 0, 91) == ends[2]


async def test_an_unfinished_commit_is_not_read(store: S3Store) -> None:
    btc = TickStream(BTC, shard_count=1)
    first = await write_commit(store, None, btc.many(4))
    await write_commit(store, first, btc.many(4))
    await store.delete([commit_key("tick.0", 2)])
    newest = await ArchiveIndex(store, "tick.0").newest()
    assert newest == first
    payloads = [record.payload for record in btc.records]
    assert await read(store, BTC, Position(0, 0)) == payloads[:4]
