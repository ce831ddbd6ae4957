"""The whole service on real stores: rows and archive equal what was published."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from services.common.domain.fold import Fold
from services.common.errors import BrokerFailed, StoreMissing
from services.common.runtime import flatten
from services.common.stores.rows import BOOK_DEPTH
from services.common.stream import Broker, Position, Publisher, Record
from services.common.stream.memory.broker import MemoryServer
from services.common.subjects import (
    StreamKey,
    pulse_key,
    raw_subject,
    tick_subject,
)
from services.common.testing.broken import PartsBroker, break_part
from services.common.testing.raw_records import RawStream, raw_message
from services.common.testing.tick_records import TickStream, state_json
from services.common.testing.waiting import eventually
from services.common.wire import Pulse, Reset, Tick, decode_record, encode
from services.snapshotter import app
from services.snapshotter.app import Snapshotter
from services.snapshotter.intake.bound import IntakeBound
from services.snapshotter.testing import SHARDS, Platform

KEYS = [
    StreamKey("coinbase", channel, product)
    for channel in ("ticker", "trades", "book")
    for product in ("BTC-USD", "ETH-USD", "SOL-USD")
]
START = Position(0, 0)
# `make soak-snapshotter` makes them 20 kills and 30 s.
KILLS = int(os.environ.get("SNAPSHOTTER_KILLS", "3"))
AWAY_S = float(os.environ.get("SNAPSHOTTER_AWAY_S", "0"))


def folded(stream: TickStream) -> Fold:
    fold = Fold(stream.key)
    for record in stream.records:
        decoded = decode_record(record.payload)
        if isinstance(decoded, Tick | Reset):
            fold.apply(decoded)
    return fold


async def publish(publisher: Publisher, records: Sequence[Record]) -> None:
    for record in records:
        await publisher.send(record)
    await publisher.flush()


def new_streams() -> list[TickStream]:
    return [TickStream(key, shard_count=SHARDS) for key in KEYS]


async def publish_some(publisher: Publisher, streams: list[TickStream], rounds: int) -> None:
    """Records of all streams, mixed."""
    for _ in range(rounds):
        for stream in random.sample(streams, len(streams)):
            await publish(publisher, stream.many(5))


async def rows_are_current(platform: Platform, streams: list[TickStream]) -> bool:
    try:
        rows = await platform.latest.get_many([stream.key for stream in streams])
    except StoreMissing:
        return False  # the snapshotter has not made the table yet
    for stream in streams:
        # Statuses, which have a sub, do not change the state.
        newest = [record.position for record in stream.records if record.position.sub == 0][-1:]
        row = rows.get(stream.key)
        if newest and (row is None or row.position != newest[0]):
            return False
    return True


async def assert_rows_equal_an_independent_fold(
    platform: Platform, streams: list[TickStream]
) -> None:
    for stream in streams:
        row = await platform.latest.get(stream.key)
        fold = folded(stream)
        assert row is not None
        assert row.position == fold.position
        assert row.shard == stream.shard
        assert state_json(row.state) == state_json(fold.state(BOOK_DEPTH))
        if stream.key.channel == "book":
            assert row.checkpoint is not None
            checkpoint = await platform.store.get_checkpoint(row.checkpoint)
            assert checkpoint is not None
            assert checkpoint.position <= row.position


async def archived(platform: Platform, stream: TickStream, after: Position = START) -> list[bytes]:
    return [payload async for payload in platform.archive.read(stream.key, stream.shard, after)]


async def assert_archive_has_every_record_once(
    platform: Platform, streams: list[TickStream]
) -> None:
    for stream in streams:
        expected = [record.payload for record in stream.records]
        assert await archived(platform, stream) == expected


async def archive_is_complete(platform: Platform, streams: list[TickStream]) -> bool:
    for stream in streams:
        last = stream.records[-2].position if len(stream.records) > 1 else START
        if await archived(platform, stream, last) != [stream.records[-1].payload]:
            return False
    return True


async def test_rows_equal_an_independent_fold_and_every_record_is_archived_once_in_order(
    platform: Platform,
) -> None:
    streams = new_streams()
    async with platform.snapshotter(), platform.publisher() as (_, publisher):
        await publish_some(publisher, streams, rounds=12)
        await eventually(lambda: rows_are_current(platform, streams))
    await assert_rows_equal_an_independent_fold(platform, streams)
    await assert_archive_has_every_record_once(platform, streams)


async def test_archive_is_read_from_any_position(platform: Platform) -> None:
    streams = new_streams()[:3]
    async with platform.snapshotter(), platform.publisher() as (_, publisher):
        for _ in range(5):
            await publish_some(publisher, streams, rounds=2)
            await asyncio.sleep(0.25)  # so that several batches come to be
    for stream in streams:
        for start in (0, 1, 17, len(stream.records) - 2, len(stream.records) - 1):
            after = stream.records[start].position
            expected = [record.payload for record in stream.records[start + 1 :]]
            assert await archived(platform, stream, after) == expected


async def test_restart_in_the_middle_loses_nothing_and_never_goes_backwards(
    platform: Platform,
) -> None:
    streams = new_streams()
    async with platform.publisher() as (_, publisher):
        for _ in range(3):
            async with platform.snapshotter():
                await publish_some(publisher, streams, rounds=3)
            await publish_some(publisher, streams, rounds=2)
        async with platform.snapshotter():
            await eventually(lambda: rows_are_current(platform, streams))
            await eventually(lambda: archive_is_complete(platform, streams))
    await assert_rows_equal_an_independent_fold(platform, streams)
    await assert_archive_has_every_record_once(platform, streams)


async def test_on_a_real_broker_crash_and_restart_lose_nothing(
    broker_platform: Platform,
) -> None:
    platform = broker_platform
    streams = new_streams()
    async with platform.publisher() as (_, publisher):
        service = asyncio.create_task(platform.crashing_snapshotter())  # cancelled below
        await publish_some(publisher, streams, rounds=3)
        await eventually(lambda: rows_are_current(platform, streams[:2]))
        await publish_some(publisher, streams, rounds=1)
        service.cancel()
        await asyncio.wait([service])
        async with platform.snapshotter():
            await publish_some(publisher, streams, rounds=2)
            await eventually(lambda: rows_are_current(platform, streams))
        await publish_some(publisher, streams, rounds=1)
        async with platform.snapshotter():
            await eventually(lambda: rows_are_current(platform, streams))
            await eventually(lambda: archive_is_complete(platform, streams))
    await assert_rows_equal_an_independent_fold(platform, streams)
    await assert_archive_has_every_record_once(platform, streams)


async def test_everything_is_acked_in_the_end(platform: Platform) -> None:
    streams = new_streams()
    async with platform.publisher() as (broker, publisher):
        async with platform.snapshotter():
            await publish_some(publisher, streams, rounds=4)
            await eventually(lambda: rows_are_current(platform, streams))
        for shard in range(SHARDS):
            group = await broker.group(f"tick.{shard}", "snapshotter")
            assert await group.lag() == 0
            await group.aclose()


async def test_pulses_are_acked_and_leave_nothing_behind(platform: Platform) -> None:
    streams = new_streams()
    key = pulse_key("coinbase", "line-1")

    async def beat(publisher: Publisher, seq: int) -> None:
        pulse = Pulse(1, "coinbase", "line-1", 0, seq, ["BTC-USD"])
        position = Position(1, seq)
        await publisher.send(Record(tick_subject(0, key), encode(pulse), position))
        await publisher.send(Record(raw_subject(key), b'{"kind":"pulse"}', position))

    async with platform.publisher() as (broker, publisher):
        # Some are there before it comes, others while it runs.
        await beat(publisher, 1)
        async with platform.snapshotter() as service:
            await publish_some(publisher, streams, rounds=1)
            await beat(publisher, 2)
            await publish_some(publisher, streams, rounds=1)
            await eventually(lambda: rows_are_current(platform, streams))
            await eventually(lambda: archive_is_complete(platform, streams))
            seen = {stream.key for pump in service.pumps for stream in pump.streams.values()}
        for log in ("tick.0", "raw"):
            group = await broker.group(log, "snapshotter")
            assert await group.lag() == 0
            await group.aclose()
    assert seen == set(KEYS)
    await assert_archive_has_every_record_once(platform, streams)


async def test_undecodable_records_are_skipped_and_a_book_waits_for_its_next_reset(
    platform: Platform,
) -> None:
    book = TickStream(StreamKey("coinbase", "book", "BTC-USD"), shard_count=SHARDS)
    async with platform.snapshotter(), platform.publisher() as (_, publisher):
        await publish(publisher, [book.tick(), book.tick()])
        await eventually(lambda: rows_are_current(platform, [book]))
        broken = book.tick()
        book.records.remove(broken)
        await publish(publisher, [Record(broken.subject, b"{not json", broken.position)])
        whole_at = book.records[-1].position
        await publish(publisher, [book.tick(), book.tick()])
        marker = TickStream(StreamKey("coinbase", "ticker", "BTC-USD"), shard_count=SHARDS)
        await publish(publisher, [marker.tick()])
        await eventually(lambda: rows_are_current(platform, [marker]))
        row = await platform.latest.get(book.key)
        assert row is not None
        assert row.position == whole_at
        await publish(publisher, [book.reset(), book.tick()])
        await eventually(lambda: rows_are_current(platform, [book]))
    await assert_rows_equal_an_independent_fold(platform, [book])
    await assert_archive_has_every_record_once(platform, [book])


async def test_raw_records_are_archived_once_over_a_restart(platform: Platform) -> None:
    raw = RawStream(StreamKey("coinbase", "ticker", "BTC-USD"))
    for seq in range(10, 60):
        raw.add("frame", seq, {"type": "ticker", "sequence": seq})
        raw.add("status", seq, {"state": "live", "since": seq, "evidence": "x"})
    records = [raw_message(record) for record in raw.records]
    async with platform.publisher() as (_, publisher):
        for start, end in ((0, 40), (40, 100)):
            expected = [record.payload for record in records[:end]]

            async def archived_so_far(expected: list[bytes] = expected) -> bool:
                return await platform.lines("raw/") == expected

            async with platform.snapshotter():
                await publish(publisher, records[start:end])
                await eventually(archived_so_far)


async def test_production_refuses_a_missing_table(platform: Platform) -> None:
    with pytest.raises(ExceptionGroup) as caught:
        async with platform.snapshotter(wait=False, environment="production"):
            await asyncio.Event().wait()
    missing = [error for error in flatten(caught.value) if isinstance(error, StoreMissing)]
    assert missing
    assert "does not exist, and in production none is made: make it first" in str(missing[0])


async def test_stop_is_prompt_while_the_stores_are_away(platform: Platform) -> None:
    platform.proxy.cut()
    async with contextlib.AsyncExitStack() as stack:
        service = await stack.enter_async_context(platform.snapshotter(wait=False))
        await service.listening.wait()
        # Half of what it may wait for stores that take what it holds: it holds nothing.
        async with asyncio.timeout(10):
            await stack.aclose()


async def test_a_group_that_broke_ends_the_snapshotter_and_the_next_one_loses_nothing(
    platform: Platform,
) -> None:
    server = MemoryServer()
    opened: list[PartsBroker] = []

    def new_broker() -> Broker:
        opened.append(PartsBroker(server))
        return opened[-1]

    platform.new_broker = new_broker
    streams = new_streams()
    with pytest.raises(ExceptionGroup) as ended:
        await _run_into_a_broken_group(platform, streams, opened)
    assert ended.group_contains(BrokerFailed)
    async with platform.snapshotter(), platform.publisher() as (_, publisher):
        await publish_some(publisher, streams, rounds=2)
        await eventually(lambda: rows_are_current(platform, streams))
    await assert_rows_equal_an_independent_fold(platform, streams)
    await assert_archive_has_every_record_once(platform, streams)


async def _run_into_a_broken_group(
    platform: Platform, streams: list[TickStream], opened: list[PartsBroker]
) -> None:
    async with platform.snapshotter(), platform.publisher() as (_, publisher):
        await publish_some(publisher, streams, rounds=2)
        await eventually(lambda: _joined(opened[0], SHARDS))
        break_part(opened[0].groups[0])
        await asyncio.Event().wait()


async def _joined(broker: PartsBroker, groups: int) -> bool:
    return len(broker.groups) >= groups


async def test_readiness_tells_of_a_log_that_is_not_taken_though_the_broker_answers(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "_PROBE_PERIOD_S", 0.02)
    monkeypatch.setattr(app, "_NO_PROGRESS_S", 0.2)
    streams = new_streams()
    async with platform.snapshotter() as service, platform.publisher() as (_, publisher):
        pump = service.pumps[0]
        going_on = asyncio.Event()
        wait_for_room = IntakeBound._wait

        async def stuck(bound: IntakeBound, held: Callable[[], int]) -> None:
            if bound is pump.bound:
                await going_on.wait()
            await wait_for_room(bound, held)

        monkeypatch.setattr(IntakeBound, "_wait", stuck)
        await publish_some(publisher, streams, rounds=2)
        await eventually(lambda: _check_is(service, "consuming", ok=False))
        assert (await _report(service))["checks"]["broker"]["ok"]
        going_on.set()
        await eventually(lambda: _check_is(service, "consuming", ok=True))
        await eventually(lambda: rows_are_current(platform, streams))


async def _report(service: Snapshotter) -> dict[str, Any]:
    return service.health.report()


async def _check_is(service: Snapshotter, check: str, *, ok: bool) -> bool:
    return bool((await _report(service))["checks"][check]["ok"]) is ok
