"""While the stores are away nothing is lost, and the intake stops at its bound."""

from __future__ import annotations

import asyncio
import time

import httpx
import pytest

from services.common.subjects import (
    StreamKey,
)
from services.common.testing.tick_records import TickStream
from services.common.testing.waiting import eventually
from services.snapshotter.testing import SHARDS, Platform
from services.snapshotter.tests.test_snapshotter import (
    AWAY_S,
    assert_archive_has_every_record_once,
    assert_rows_equal_an_independent_fold,
    new_streams,
    publish,
    publish_some,
    rows_are_current,
)


@pytest.mark.timeout(300 + 2 * AWAY_S)
@pytest.mark.parametrize("blackhole", [False, True], ids=["refusing", "swallowing"])
async def test_stores_away_for_a_while_lose_nothing_and_readiness_tells(
    platform: Platform, blackhole: bool
) -> None:
    streams = new_streams()
    async with platform.snapshotter() as service, platform.publisher() as (_, publisher):
        await publish_some(publisher, streams, rounds=2)
        await eventually(lambda: rows_are_current(platform, streams))
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{service.port}") as http:

            async def failing() -> set[str]:
                report = (await http.get("/readyz")).json()
                return {name for name, check in report["checks"].items() if not check["ok"]}

            async def stores_fail() -> bool:
                return await failing() == {"dynamodb", "s3"}

            async def all_well() -> bool:
                return not await failing()

            assert await all_well()
            platform.proxy.cut(blackhole=blackhole)
            away_until = time.monotonic() + AWAY_S
            await publish_some(publisher, streams, rounds=6)
            await eventually(stores_fail, seconds=60)
            while time.monotonic() < away_until:
                await publish_some(publisher, streams, rounds=1)
                await asyncio.sleep(0.1)  # the load goes on
            assert sum(pump.bound.held for pump in service.pumps) <= 256_000_000
            platform.proxy.mend()
            await eventually(all_well, seconds=60)
        await eventually(lambda: rows_are_current(platform, streams))
    await assert_rows_equal_an_independent_fold(platform, streams)
    await assert_archive_has_every_record_once(platform, streams)


async def test_a_stream_never_seen_before_waits_alone_while_the_stores_are_away(
    platform: Platform,
) -> None:
    known, unseen = (
        TickStream(StreamKey("coinbase", channel, "BTC-USD"), shard_count=SHARDS)
        for channel in ("ticker", "trades")
    )
    async with platform.snapshotter() as service, platform.publisher() as (_, publisher):
        await publish(publisher, known.many(5))
        await eventually(lambda: rows_are_current(platform, [known]))
        platform.proxy.cut()
        await publish(publisher, unseen.many(5))
        await publish(publisher, known.many(300))
        pump = service.pumps[known.shard]

        async def all_taken() -> bool:
            return pump.streams[known.key].held == known.records[-1].position

        await eventually(all_taken)
        assert unseen.key not in pump.streams
        await publish(publisher, unseen.many(5))
        platform.proxy.mend()
        await eventually(lambda: rows_are_current(platform, [known, unseen]))
    await assert_rows_equal_an_independent_fold(platform, [known, unseen])
    await assert_archive_has_every_record_once(platform, [known, unseen])


async def test_intake_stops_at_the_byte_bound_while_stores_are_away(platform: Platform) -> None:
    stream = TickStream(StreamKey("coinbase", "book", "BTC-USD"), shard_count=SHARDS)
    bound = 16_000_000
    async with (
        platform.snapshotter(buffer_max_bytes=bound, archive_period_s=3600) as service,
        platform.publisher() as (_, publisher),
    ):
        await publish(publisher, [stream.reset()])
        await eventually(lambda: rows_are_current(platform, [stream]))
        platform.proxy.cut()
        # 24 resets of 0.5 MB each: twice the third of the bound that one of three logs may use.
        for _ in range(24):
            await publish(publisher, [stream.reset(levels=12_000)])

        async def paused() -> bool:
            return any(pump.bound.paused for pump in service.pumps)

        await eventually(paused)
        held = max(pump.bound.held for pump in service.pumps)
        largest = max(len(record.payload) for record in stream.records)
        assert held <= bound / 3 + largest
        assert held < sum(len(record.payload) for record in stream.records)
        platform.proxy.mend()
        await eventually(lambda: rows_are_current(platform, [stream]), seconds=60)
    await assert_archive_has_every_record_once(platform, [stream])
