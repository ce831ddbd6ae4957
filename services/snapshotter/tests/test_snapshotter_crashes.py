"""Snapshotters that are killed, or overlap, lose nothing and archive nothing twice."""

from __future__ import annotations

import asyncio
import json
import random
import sys
from functools import partial

import nats
import pytest
from nats.aio.client import Client

from services.common.settings import CommonSettings, child_environment
from services.common.stream import Broker, Position, Publisher
from services.common.stream.nats.broker import NatsBroker
from services.common.subjects import (
    StreamKey,
    key_of,
    tick_log,
)
from services.common.testing.waiting import eventually
from services.snapshotter.testing import SHARDS, Platform
from services.snapshotter.tests.test_snapshotter import (
    KILLS,
    archive_is_complete,
    assert_archive_has_every_record_once,
    assert_rows_equal_an_independent_fold,
    new_streams,
    publish,
    publish_some,
    rows_are_current,
)
from tools.embedded import NatsServer


async def test_crashes_at_any_moment_lose_nothing_and_archive_nothing_twice(
    platform: Platform,
) -> None:
    streams = new_streams()
    dice = random.Random(5)
    async with platform.publisher() as (_, publisher):
        for _ in range(8):
            service = asyncio.create_task(platform.crashing_snapshotter())  # cancelled below
            for _ in range(dice.randint(1, 6)):
                await publish_some(publisher, streams, rounds=1)
                await asyncio.sleep(dice.uniform(0, 0.2))  # the crash comes at any moment
            service.cancel()
            await asyncio.wait([service])
        async with platform.snapshotter():
            await eventually(lambda: rows_are_current(platform, streams))
            await eventually(lambda: archive_is_complete(platform, streams))
    await assert_rows_equal_an_independent_fold(platform, streams)
    await assert_archive_has_every_record_once(platform, streams)


async def ack_floors(client: Client) -> list[int]:
    """Of each shard: the log's sequence up to which the group has acked everything."""
    floors = []
    for shard in range(SHARDS):
        verb = f"$JS.API.CONSUMER.INFO.MARKET_TICK_{shard}.snapshotter"
        # Its own default is half a second, in which a busy machine may not come to answer.
        answer = json.loads((await client.request(verb, b"", timeout=60)).data)
        floors.append(answer["ack_floor"]["stream_seq"] if "ack_floor" in answer else 0)
    return floors


async def acked_positions(client: Client, broker: Broker) -> dict[StreamKey, Position]:
    """The last tick or reset of each stream that the group has acked, with all before it."""
    found: dict[StreamKey, Position] = {}
    for shard, floor in enumerate(await ack_floors(client)):
        for subject in await broker.subjects(tick_log(shard)):
            page = await broker.read(subject, limit=100_000)
            for message in page.messages:
                if int(message.cursor.rpartition("@")[2]) <= floor and not message.position.sub:
                    found[key_of(subject)] = message.position
    return found


@pytest.mark.timeout(300 + 30 * KILLS)
async def test_sigkill_at_random_moments_under_load_loses_nothing_and_archives_nothing_twice(
    platform: Platform, nats_server: NatsServer
) -> None:
    dice = random.Random(11)
    environment = {
        "NATS_URLS": nats_server.url,
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{platform.proxy.port}",
        "S3_BUCKET": platform.aws.s3_bucket,
        "DDB_TABLE": platform.aws.ddb_table,
        "SHARD_COUNT": str(SHARDS),
        "SNAPSHOT_PERIOD_MS": "20",
        "ARCHIVE_PERIOD_S": "0.2",
        "CHECKPOINT_PERIOD_S": "0.2",
        "HTTP_PORT": "0",
    }
    settings = CommonSettings.model_validate({"nats_urls": nats_server.url})
    platform.new_broker = lambda: NatsBroker(settings.nats_urls)
    streams = new_streams()

    async def load(publisher: Publisher) -> None:
        while True:
            await publish_some(publisher, streams, rounds=1)
            await asyncio.sleep(0.1)  # some 450 records a second

    async def acked_more_than(before: list[int]) -> bool:
        return all(now > then for now, then in zip(await ack_floors(client), before, strict=True))

    client = await nats.connect(nats_server.url)
    async with platform.publisher() as (broker, publisher):
        loading = asyncio.create_task(load(publisher))  # cancelled below
        for _ in range(KILLS):
            before = await ack_floors(client)
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "services.snapshotter"),
                env=child_environment(environment),
                stderr=asyncio.subprocess.DEVNULL,
            )
            try:
                await eventually(partial(acked_more_than, before), seconds=120)
                await asyncio.sleep(dice.uniform(0, 1))  # the kill comes at any moment
            finally:
                process.kill()
                await process.wait()
            acked = await acked_positions(client, broker)
            rows = await platform.latest.get_many([stream.key for stream in streams])
            assert {key for key in acked if rows[key].position < acked[key]} == set()
            assert acked
        loading.cancel()
        await asyncio.wait([loading])
        await publisher.flush()
        async with platform.snapshotter():
            await eventually(lambda: rows_are_current(platform, streams), seconds=120)
            await eventually(lambda: archive_is_complete(platform, streams), seconds=120)
    await client.close()
    await assert_rows_equal_an_independent_fold(platform, streams)
    await assert_archive_has_every_record_once(platform, streams)
    assert len(await platform.lines("ticks/")) == sum(len(stream.records) for stream in streams)


async def test_two_that_overlap_as_in_a_rolling_update_archive_nothing_twice(
    platform: Platform,
) -> None:
    streams = new_streams()

    # Ticks with statuses between them, which only the record behind them can prove.
    async def publish_ticks(publisher: Publisher, rounds: int) -> None:
        for _ in range(rounds):
            await publish(publisher, [each for stream in streams for each in stream.many(5)])
            await asyncio.sleep(0.1)  # so that both come to write batches

    async with platform.publisher() as (_, publisher), platform.snapshotter():
        await publish_ticks(publisher, 3)
        async with platform.snapshotter():
            await publish_ticks(publisher, 10)
        await publish_ticks(publisher, 3)
        await eventually(lambda: rows_are_current(platform, streams))
        await eventually(lambda: archive_is_complete(platform, streams))
    await assert_rows_equal_an_independent_fold(platform, streams)
    await assert_archive_has_every_record_once(platform, streams)
    # Also who reads the folder without the index finds every record once.
    assert sorted(await platform.lines("ticks/")) == sorted(
        record.payload for stream in streams for record in stream.records
    )
