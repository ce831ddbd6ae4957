"""Trades that REST could not give in time, from the exchange to the tick log: none is missing.

Ingestor and normalizer as they are deployed, on one broker; the exchange loses trades on the wire
while its REST API is away for longer than trades wait.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import msgspec
from prometheus_client import CollectorRegistry

from services.common.domain.fold import TRADES_KEPT
from services.common.runtime import Stop
from services.common.stream import Broker
from services.common.stream.memory.broker import MemoryBroker
from services.common.subjects import StreamKey, raw_subject, tick_log, tick_subject
from services.common.testing.raw_records import log_bytes
from services.common.wire import Late, Reset, Tick, decode_record
from services.ingestor.app import Ingestor
from services.ingestor.streams import TradesStream
from services.ingestor.testing import eventually, running
from services.normalizer.metrics import Metrics
from services.normalizer.pipeline import Pipeline
from tools.simulator import SimulatedExchange

BTC = "BTC-USD"
TRADES = StreamKey("coinbase", "trades", BTC)
TICKS = tick_subject(0, TRADES)
LOST = 6


@contextlib.asynccontextmanager
async def normalizing(broker: Broker) -> AsyncIterator[None]:
    pipeline = Pipeline(
        broker,
        Metrics(CollectorRegistry()),
        group="normalizer-all",
        shard_count=1,
        shards=frozenset({0}),
    )
    stop = Stop()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(pipeline.run(stop))
        try:
            yield
        finally:
            stop.request("the test is over")


def trades_of(ingestor: Ingestor) -> TradesStream | None:
    return ingestor.feeds[0].products[BTC].trades if ingestor.feeds else None


async def tick_records(broker: Broker) -> list[Tick | Reset | Late]:
    payloads = (await log_bytes(broker, tick_log(0))).get(TICKS, [])
    decoded = map(decode_record, payloads)
    return [record for record in decoded if isinstance(record, Tick | Reset | Late)]


async def normalized(broker: Broker) -> None:
    """Wait until the tick log is as long as the raw log; positions are the same in both."""

    async def as_long() -> bool:
        ends = [await broker.last(subject) for subject in (raw_subject(TRADES), TICKS)]
        raw, ticks = (None if end is None else end.position for end in ends)
        return raw is not None and raw == ticks

    await eventually(as_long, "the tick log as long as the raw log")


async def test_a_gap_is_announced_with_a_state_and_closed_by_what_comes_late() -> None:
    async with (
        MemoryBroker() as broker,
        SimulatedExchange(products=(BTC,), paced=False) as exchange,
        running(
            broker,
            exchange.ws_url,
            exchange.rest_url,
            BTC,
            resync_max_queue_ms=100,
            shard_count=1,
        ) as ingestor,
        normalizing(broker),
    ):

        def live() -> bool:
            stream = trades_of(ingestor)
            return stream is not None and stream.state.value == "live"

        def closed() -> bool:
            stream = trades_of(ingestor)
            return stream is not None and stream.opened == LOST and not stream.open.gaps

        await eventually(live, "live")
        exchange.advance(2)
        exchange.control(
            drop={"count": LOST, "types": ["match"], "products": [BTC]},
            rest={"status": 500, "paths": ["/trades"]},
        )
        exchange.advance(3)
        stream = trades_of(ingestor)
        assert stream is not None
        await eventually(lambda: stream.opened == LOST, "gone on without them")
        exchange.control(clear=True)
        exchange.advance(1)
        await eventually(closed, "all found")
        await ingestor.flushed()
        await normalized(broker)
        records = await tick_records(broker)
    ids = [record.seq for record in records if isinstance(record, Tick)]
    late = [record for record in records if isinstance(record, Late)]
    ids += [tick.seq for record in late for tick in record.ticks]
    assert sorted(ids) == list(range(min(ids), max(ids) + 1))
    resets = [record for record in records if isinstance(record, Reset)]
    assert sum(reset.missed.count or 0 for reset in resets if reset.missed) == LOST
    announced = {(reset.missed.from_, reset.missed.to) for reset in resets if reset.missed}
    assert {(record.missed.from_, record.missed.to) for record in late} == announced
    assert [record.lost for record in late] == [[]] * len(late)
    # What follows a gap goes on from the trades before it.
    for reset in resets:
        assert reset.repair == "snapshot"
        assert reset.state is not None
        held = msgspec.json.decode(reset.state)["trades"]
        before = [tick.seq for tick in records if isinstance(tick, Tick) and tick.seq < reset.seq]
        assert [trade["trade_id"] for trade in held] == before[-TRADES_KEPT:]
