"""A whole recording made on this machine: simulated exchange to archive, in one process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence

from prometheus_client import CollectorRegistry

from services.common.runtime import Stop
from services.common.stream import Broker
from services.common.subjects import RAW_LOG, is_pulse, tick_log
from services.common.testing.raw_records import log_bytes
from services.common.testing.waiting import eventually
from services.ingestor.testing import running
from services.normalizer.metrics import Metrics
from services.normalizer.pipeline import Pipeline
from services.snapshotter.app import Snapshotter
from services.snapshotter.testing import SHARDS, Platform
from tools.simulator import SimulatedExchange

TickLogs = dict[str, list[bytes]]


@contextlib.asynccontextmanager
async def normalizing(broker: Broker, shards: int = SHARDS) -> AsyncIterator[Pipeline]:
    pipeline = Pipeline(
        broker,
        Metrics(CollectorRegistry()),
        group="normalizer",
        shard_count=shards,
        shards=frozenset(range(shards)),
    )
    stop = Stop()
    async with asyncio.TaskGroup() as group:
        group.create_task(pipeline.run(stop), name="normalizer")
        try:
            yield pipeline
        finally:
            stop.request("done")


async def nothing_waits(pipeline: Pipeline) -> None:
    """Wait until every raw record has become a durable tick."""

    async def done() -> bool:
        return pipeline.joined and await pipeline.lag() == 0

    await eventually(done, seconds=600)


async def tick_logs(broker: Broker) -> TickLogs:
    """Every tick log's payloads by subject, in order."""
    found: TickLogs = {}
    for shard in range(SHARDS):
        found |= await log_bytes(broker, tick_log(shard))
    return found


async def raw_log(broker: Broker) -> TickLogs:
    return await log_bytes(broker, RAW_LOG)


async def normalized(broker: Broker) -> TickLogs:
    """The tick logs that a normalizer makes of the raw log in `broker`."""
    async with normalizing(broker) as pipeline:
        await nothing_waits(pipeline)
    return await tick_logs(broker)


async def everything_archived(service: Snapshotter, broker: Broker) -> None:
    async def archived() -> bool:
        held = {
            stream.subject: stream.archived
            for pump in service.pumps
            for stream in pump.streams.values()
        }
        for name in (RAW_LOG, *(tick_log(shard) for shard in range(SHARDS))):
            for subject in await broker.subjects(name):
                if is_pulse(subject):
                    continue
                last = await broker.last(subject)
                if last is not None and held.get(subject) != last.position:
                    return False
        return True

    await eventually(archived, seconds=600)


def _sent(exchange: SimulatedExchange) -> int:
    counters = (each for counts in exchange.hub.counts.values() for each in counts.values())
    return sum(counter["sent"] for counter in counters)


async def record_market(
    platform: Platform,
    *,
    products: Sequence[str],
    seconds: int,
    rate: float,
    on_second: Callable[[int], None] = lambda _second: None,
) -> tuple[TickLogs, TickLogs]:
    """Let a market run for `seconds` of its own time, as fast as the machine can, and archive it.

    Every tenth second some trades are dropped, so that refills, new books and statuses are part of
    it. Returns the raw log and the tick logs as they were.
    """
    async with SimulatedExchange(products=products, rate=rate, paced=False, seed=3) as exchange:
        return await record(platform, exchange, products, seconds, on_second)


async def record(
    platform: Platform,
    exchange: SimulatedExchange,
    products: Sequence[str],
    seconds: int,
    on_second: Callable[[int], None] = lambda _second: None,
) -> tuple[TickLogs, TickLogs]:
    """`record_market`, of an exchange that somebody else keeps."""
    async with (
        platform.new_broker() as broker,
        platform.snapshotter(
            snapshot_period_ms=250, archive_period_s=2, checkpoint_period_s=5
        ) as service,
    ):
        async with (
            normalizing(broker) as pipeline,
            # The market runs ahead of time: what waits is refilled however long an answer takes.
            running(
                broker,
                exchange.ws_url,
                exchange.rest_url,
                *products,
                resync_max_queue_ms=60_000,
            ) as ingestor,
        ):

            async def connected() -> bool:
                exchange.advance(0.5)
                return bool(ingestor.feeds) and all(feed.connected for feed in ingestor.feeds)

            await eventually(connected)

            async def keeping_up() -> bool:
                # The logs' readers are not left far behind: retention is by time.
                read = sum(feed.messages for feed in ingestor.feeds)
                return read >= _sent(exchange) and await pipeline.lag() < 5_000

            for second in range(seconds):
                if second % 10 == 5:
                    exchange.control(drop={"count": 3, "types": ["match"]})
                exchange.advance(1)
                await eventually(keeping_up, seconds=120, every=0.001)
                on_second(second)

            async def healed() -> bool:
                streams = [
                    stream
                    for feed in ingestor.feeds
                    for streams in feed.products.values()
                    for stream in streams.all
                ]
                return all(stream.state.value in ("live", "quiet") for stream in streams)

            await eventually(healed)
        async with normalizing(broker) as pipeline:
            await nothing_waits(pipeline)
        await everything_archived(service, broker)
        return await raw_log(broker), await tick_logs(broker)
