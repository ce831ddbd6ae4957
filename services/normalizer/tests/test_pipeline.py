"""Raw log in, tick log out, on real brokers: order, redelivery, several members, dead letters."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Iterable

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from services.common.errors import BrokerFailed
from services.common.runtime import Stop
from services.common.settings import CommonSettings
from services.common.sharding import shard_of
from services.common.stream import Broker, Position, Record
from services.common.stream.memory.broker import MemoryBroker, MemoryServer
from services.common.stream.specs import log_specs
from services.common.subjects import INVALID_SUBJECT, StreamKey, raw_subject, tick_log
from services.common.testing.broken import PartsBroker, break_part, refuse_once
from services.common.testing.raw_records import RawStream, log_bytes, publish_all, raw_message
from services.common.wire import RawRecord
from services.normalizer.metrics import Metrics
from services.normalizer.normalize import Normalizer
from services.normalizer.pipeline import Pipeline
from services.normalizer.restore import REFRESH_S

SHARDS = 4
PRODUCTS = ["BTC-USD", "ETH-USD", "SOL-USD", "ADA-USD", "XRP-USD"]

Connect = Callable[[], Broker]


@contextlib.asynccontextmanager
async def opened(connect: Connect) -> AsyncIterator[Broker]:
    async with connect() as broker:
        await broker.ensure(log_specs(CommonSettings(shard_count=SHARDS)))
        yield broker


@contextlib.asynccontextmanager
async def running(pipeline: Pipeline) -> AsyncIterator[None]:
    stop = Stop()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(pipeline.run(stop))
        try:
            yield
        finally:
            stop.request("test")


def pipeline_on(
    broker: Broker,
    *,
    group: str = "normalizer-all",
    shards: Iterable[int] = range(SHARDS),
    shard_count: int = SHARDS,
    max_batch: int = 64,
    clock: Callable[[], float] = time.monotonic,
) -> Pipeline:
    return Pipeline(
        broker,
        Metrics(CollectorRegistry()),
        group=group,
        shard_count=shard_count,
        shards=frozenset(shards),
        max_batch=max_batch,
        clock=clock,
    )


async def until_acked(pipeline: Pipeline) -> None:
    async with asyncio.timeout(30):
        while not pipeline.joined or await pipeline.lag():  # noqa: ASYNC110 - it must be asked
            await asyncio.sleep(0.01)


def session(trades: int = 60) -> list[RawRecord]:
    """What an ingestor writes in a while: three channels of five products, interleaved."""
    streams = [
        RawStream(StreamKey("coinbase", channel, product))
        for product in PRODUCTS
        for channel in ("ticker", "trades", "book")
    ]
    records = [stream.status() for stream in streams]
    for step in range(1, trades + 1):
        for stream in streams:
            if stream.key.channel == "trades":
                records.append(stream.match(step))
            elif stream.key.channel == "ticker":
                records.append(stream.ticker(step * 17))
            elif step % 20 == 1:
                records.append(stream.snapshot(step * 1000, [["10", "1"]], [["11", "1"]]))
            else:
                records.append(stream.changes(step * 1000, [("buy", "10", f"{step}")]))
        if step % 25 == 0:
            records += [stream.status("quiet") for stream in streams]
    return records


def expected(records: Iterable[RawRecord], shard_count: int = SHARDS) -> dict[str, list[bytes]]:
    """The tick log of an undisturbed run."""
    normalizer = Normalizer(shard_count)
    found: dict[str, list[bytes]] = {}
    for record in records:
        key = StreamKey(record.venue, record.channel, record.product)
        for out in normalizer.normalize(key, record).records:
            found.setdefault(out.subject, []).append(out.payload)
    return found


async def ticks(broker: Broker, shard_count: int = SHARDS) -> dict[str, list[bytes]]:
    found: dict[str, list[bytes]] = {}
    for shard in range(shard_count):
        found |= await log_bytes(broker, tick_log(shard))
    return found


async def test_raw_records_come_out_as_chained_ticks_in_their_shards(connect: Connect) -> None:
    records = session()
    async with opened(connect) as broker:
        await publish_all(broker, records)
        pipeline = pipeline_on(broker)
        async with running(pipeline):
            await until_acked(pipeline)
        assert await ticks(broker) == expected(records)


async def test_a_normalizer_that_was_stopped_goes_on_where_it_was(connect: Connect) -> None:
    records = session()
    async with opened(connect) as broker:
        for start in range(0, len(records), 200):
            await publish_all(broker, records[start : start + 200])
            pipeline = pipeline_on(broker)
            async with running(pipeline):
                await until_acked(pipeline)
        assert await ticks(broker) == expected(records)


async def test_two_normalizers_with_groups_of_their_own_write_one_log(connect: Connect) -> None:
    records = session()
    async with opened(connect) as one, opened(connect) as two:
        first, second = pipeline_on(one, group="blue"), pipeline_on(two, group="green")
        async with running(first), running(second):
            for start in range(0, len(records), 100):
                await publish_all(one, records[start : start + 100])
            await until_acked(first)
            await until_acked(second)
        assert await ticks(one) == expected(records)


async def test_two_members_of_one_group_write_one_log(connect: Connect) -> None:
    """Each gets part of a stream's records only, and finds the rest in the logs."""
    records = session()
    async with opened(connect) as one, opened(connect) as two:
        first, second = pipeline_on(one, max_batch=16), pipeline_on(two, max_batch=16)
        async with running(first), running(second):
            for start in range(0, len(records), 100):
                await publish_all(one, records[start : start + 100])
            await until_acked(first)
        assert await ticks(one) == expected(records)


async def test_ranges_of_shards_share_the_work_and_each_sees_everything(connect: Connect) -> None:
    records = session(30)
    async with opened(connect) as one, opened(connect) as two:
        await publish_all(one, records)
        low = pipeline_on(one, group="normalizer-0-1", shards=range(2))
        high = pipeline_on(two, group="normalizer-2-3", shards=range(2, 4))
        async with running(low):
            await until_acked(low)
        found = await ticks(one)
        assert set(found) == {
            subject for subject in expected(records) if subject.split(".")[2] in "01"
        }
        async with running(high):
            await until_acked(high)
        assert await ticks(one) == expected(records)


async def test_a_new_group_on_an_old_log_writes_nothing_twice(connect: Connect) -> None:
    records = session(30)
    async with opened(connect) as broker:
        await publish_all(broker, records)
        for group in ("one", "two"):
            pipeline = pipeline_on(broker, group=group)
            async with running(pipeline):
                await until_acked(pipeline)
        assert await ticks(broker) == expected(records)


async def test_a_normalizer_far_behind_another_sends_nothing_that_is_stored(
    connect: Connect,
) -> None:
    """It rereads the heads before the broker's duplicate window can have forgotten them."""
    records = session(20)
    now = 0.0
    async with opened(connect) as one, opened(connect) as two:
        slow = pipeline_on(two, group="slow", clock=lambda: now)
        fast = pipeline_on(one, group="fast")
        async with running(slow):
            await publish_all(one, records[:100])
            await until_acked(slow)
        async with running(fast):
            await publish_all(one, records[100:])
            await until_acked(fast)
        now += REFRESH_S + 1
        async with running(slow):
            await until_acked(slow)
        assert slow.published == sum(map(len, expected(records[:100]).values()))
        assert await ticks(one) == expected(records)


async def test_a_moved_product_finds_its_history_in_its_new_shard(connect: Connect) -> None:
    """After a change of SHARD_COUNT the retained raw records are worked on again where needed."""
    records = session(40)
    moved = [p for p in PRODUCTS if shard_of(p, SHARDS) != shard_of(p, SHARDS + 1)]
    assert moved, "the products were chosen so that some of them move"
    async with opened(connect) as broker:
        await publish_all(broker, records[:300])
        pipeline = pipeline_on(broker)
        async with running(pipeline):
            await until_acked(pipeline)
        await broker.ensure(log_specs(CommonSettings(shard_count=SHARDS + 1)))
        await publish_all(broker, records[300:])
        grown = pipeline_on(broker, shards=range(SHARDS + 1), shard_count=SHARDS + 1)
        async with running(grown):
            await until_acked(grown)
        found = await ticks(broker, SHARDS + 1)
        whole = expected(records, SHARDS + 1)
        for subject, payloads in whole.items():
            # Records of products that stayed were written once, under either count.
            assert found[subject] == payloads, subject


async def test_what_cannot_be_read_is_parked_and_the_rest_goes_on(connect: Connect) -> None:
    stream = RawStream(StreamKey("coinbase", "trades", "BTC-USD"))
    records = [stream.match(1), stream.match(2), stream.match(3, side="none"), stream.match(4)]
    subject = raw_subject(stream.key)
    async with opened(connect) as broker:
        await publish_all(broker, records[:1])
        # Not a raw record at all, at the place of the second trade.
        await broker.publish(Record(subject, b"\xff{", raw_message(records[1]).position))
        await publish_all(broker, records[2:])
        pipeline = pipeline_on(broker)
        async with running(pipeline):
            await until_acked(pipeline)
        (payloads,) = (await ticks(broker)).values()
        said = [json.loads(payload) for payload in payloads]
        assert [(r["type"], r["seq"], r["prev"], r.get("cause")) for r in said] == [
            ("tick", 1, None, None),
            ("reset", 2, 1, "raw_log_break"),
            ("reset", 3, 2, "invalid_message"),
            ("tick", 4, 3, None),
        ]
        parked = [json.loads(p) for p in (await log_bytes(broker, "invalid"))[INVALID_SUBJECT]]
        assert [(p["reason"].split(":")[0], p["subject"]) for p in parked] == [
            ("bad_json", subject),
            ("bad_side", subject),
            ("raw_log_break", subject),
        ]
        # What readers go without, for whoever writes the raw log.
        assert [p.get("missed") for p in parked] == [
            None,
            {"from": 3, "to": 3, "count": 1},
            {"from": 2, "to": 2, "count": 1},
        ]
        assert parked[0]["original"] == "\ufffd{"
        assert json.loads(parked[1]["original"])["seq"] == 3
        assert parked[1]["ts_recv"] == records[2].ts_recv


@pytest.mark.parametrize("ts_recv", [2**63 - 1, 2**63, 10**30, -1])
async def test_a_corrupt_receive_time_does_not_move_the_log_of_what_is_parked_out_of_range(
    connect: Connect, ts_recv: int
) -> None:
    stream = RawStream(StreamKey("coinbase", "trades", "BTC-USD"))
    bad = msgspec.structs.replace(stream.match(1, side="none"), ts_recv=ts_recv)
    async with opened(connect) as broker:
        await publish_all(broker, [bad])
        pipeline = pipeline_on(broker)
        async with running(pipeline):
            await until_acked(pipeline)
        newest = await broker.last(INVALID_SUBJECT)
        assert newest is not None
        assert newest.position.seq <= time.time_ns() // 1000
        parked = json.loads(newest.payload)
        assert 0 <= parked["ts_recv"] < 2**63
        assert json.loads(parked["original"])["seq"] == 1


async def test_the_trace_context_travels_on(connect: Connect) -> None:
    stream = RawStream(StreamKey("coinbase", "trades", "BTC-USD"))
    message = raw_message(stream.match(1))
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with opened(connect) as broker:
        headers = {"traceparent": traceparent, "x-other": "1"}
        await broker.publish(Record(message.subject, message.payload, message.position, headers))
        pipeline = pipeline_on(broker)
        async with running(pipeline):
            await until_acked(pipeline)
        shard = shard_of("BTC-USD", SHARDS)
        tick = await broker.last(f"market.tick.{shard}.coinbase.trades.BTC-USD")
        assert tick is not None
        assert tick.position == Position(stream.epoch, 1)
        assert dict(tick.headers) == {"traceparent": traceparent}


@pytest.mark.parametrize("broken", ["group", "publisher"])
async def test_a_part_of_the_broker_that_broke_ends_the_normalizer_and_the_next_goes_on(
    broken: str,
) -> None:
    server = MemoryServer()
    records = session(10)
    async with opened(lambda: PartsBroker(server)) as broker:
        assert isinstance(broker, PartsBroker)
        pipeline = pipeline_on(broker)
        running_one = asyncio.ensure_future(pipeline.run(Stop()))
        await until_acked(pipeline)
        break_part(broker.groups[0] if broken == "group" else broker.publishers[0])
        await publish_all(broker, records)
        async with asyncio.timeout(30):
            with pytest.raises(ExceptionGroup) as ended:
                await running_one
        assert ended.group_contains(BrokerFailed)
        pipeline = pipeline_on(broker)
        async with running(pipeline):
            await until_acked(pipeline)
        assert await ticks(broker) == expected(records)


async def test_a_tick_too_large_for_its_log_is_parked_and_one_without_changes_stands_there() -> (
    None
):
    stream = RawStream(StreamKey("coinbase", "book", "BTC-USD"))
    records = [
        stream.snapshot(1000, [["10", "1"]], [["11", "1"]]),
        stream.changes(2000, [("buy", f"{price}.00", "1") for price in range(1, 400)]),
        stream.changes(3000, [("buy", "10", "2")]),
    ]
    server = MemoryServer()
    async with opened(lambda: MemoryBroker(server)) as broker:
        await publish_all(broker, records)
        server.max_payload = 2000
        pipeline = pipeline_on(broker)
        async with running(pipeline):
            await until_acked(pipeline)
        (payloads,) = (await ticks(broker)).values()
        said = [json.loads(payload) for payload in payloads]
        assert [(r["type"], r["seq"], r["prev"], r.get("cause")) for r in said] == [
            ("reset", 1000, None, "start"),
            ("tick", 2000, 1000, None),
            ("tick", 3000, 2000, None),
        ]
        (payload,) = (await log_bytes(broker, "invalid"))[INVALID_SUBJECT]
        parked = json.loads(payload)
        assert parked["reason"].startswith("record_too_large: record of ")
        assert parked["subject"].endswith("coinbase.book.BTC-USD")
        assert parked["ts_recv"] == records[1].ts_recv


async def test_a_tick_that_its_log_refuses_once_it_was_taken_is_parked_and_replaced() -> None:
    stream = RawStream(StreamKey("coinbase", "book", "BTC-USD"))
    large = [("buy", f"{price}.00", "1") for price in range(1, 400)]
    server = MemoryServer()
    async with opened(lambda: PartsBroker(server)) as broker:
        assert isinstance(broker, PartsBroker)
        pipeline = pipeline_on(broker)
        async with running(pipeline):
            await until_acked(pipeline)
            await publish_all(broker, [stream.snapshot(1000, [["10", "1"]], [["11", "1"]])])
            await until_acked(pipeline)
            refuse_once(broker.publishers[0], 2000)
            await publish_all(broker, [stream.changes(2000, large), stream.changes(3000, [])])
            await until_acked(pipeline)
        (payloads,) = (await ticks(broker)).values()
        said = [json.loads(payload) for payload in payloads]
        assert [(r["type"], r["seq"], r["prev"], r.get("cause")) for r in said] == [
            ("reset", 1000, None, "start"),
            # Told without what it could not hold.
            ("tick", 2000, 1000, None),
            ("tick", 3000, 2000, None),
        ]
        assert len(payloads[1]) < 2000
        (payload,) = (await log_bytes(broker, "invalid"))[INVALID_SUBJECT]
        assert json.loads(payload)["reason"].startswith("record_too_large: record of ")
