"""Raw record to durable tick, against publishing the same ticks with the same client."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack

from prometheus_client import CollectorRegistry

from services.common.errors import BrokerUnavailable
from services.common.runtime import Stop
from services.common.settings import CommonSettings
from services.common.stream import Broker, Record
from services.common.stream.factory import open_broker
from services.common.stream.specs import log_specs
from services.common.subjects import key_of
from services.common.wire import decode_raw
from services.normalizer.metrics import Metrics
from services.normalizer.normalize import Normalizer
from services.normalizer.pipeline import Pipeline
from tools.bench.registry import Run, bench
from tools.bench.traffic import raw_records
from tools.embedded import NatsServer, ValkeyServer
from tools.embedded.process import EmbeddedServer

_SHARDS = 8


@bench("normalizer")
async def normalizer(run: Run) -> None:
    """Raw record to durable tick, against a bare pipelined publish of the same ticks."""
    count = 100_000 if run.full else 30_000
    raw = list(raw_records(count))
    ticks = _ticks(raw)
    for kind in ("nats", "redis"):
        whole, bare = f"{kind}: raw to durable tick", f"{kind}: bare publish of the ticks"
        for _ in range(run.rounds):
            async with AsyncExitStack() as stack:
                server = await _server(kind, stack)
                broker = await _broker(kind, server, stack)
                await _publish(broker, raw)
                with run.measure(whole, server) as sample:
                    sample.count = count
                    await _normalize(broker)
            async with AsyncExitStack() as stack:
                server = await _server(kind, stack)
                broker = await _broker(kind, server, stack)
                with run.measure(bare, server) as sample:
                    sample.count = count
                    await _publish(broker, ticks)
        ratio = run.case(bare).client_us()[0] / run.case(whole).client_us()[0]
        per_core = 1e6 / run.case(whole).client_us()[0]
        run.note(whole, f"{per_core:,.0f} a second per core, ratio to bare {ratio:.2f}")
    with run.measure("pure part alone: decode, map, encode") as sample:
        sample.count = count
        _ticks(raw)


def _ticks(raw: Sequence[Record]) -> list[Record]:
    normalizer = Normalizer(_SHARDS)
    return [
        Record(out.subject, out.payload, out.position)
        for record in raw
        for out in normalizer.take(key_of(record.subject), decode_raw(record.payload)).records
    ]


async def _server(kind: str, stack: AsyncExitStack) -> EmbeddedServer:
    if kind == "nats":
        return await stack.enter_async_context(NatsServer())
    return await stack.enter_async_context(ValkeyServer())


async def _broker(kind: str, server: EmbeddedServer, stack: AsyncExitStack) -> Broker:
    settings = CommonSettings.model_validate(
        {
            "broker_kind": kind,
            "nats_urls": server.url,
            "redis_url": server.url,
            "shard_count": _SHARDS,
        }
    )
    broker = await stack.enter_async_context(open_broker(settings))
    await broker.ensure(log_specs(settings))
    return broker


async def _publish(broker: Broker, records: Sequence[Record]) -> None:
    publisher = await broker.publisher()
    for record in records:
        if publisher.offer(record) is None:
            await publisher.send(record)
    await publisher.flush()
    await publisher.aclose()


async def _normalize(broker: Broker) -> None:
    pipeline = Pipeline(
        broker,
        Metrics(CollectorRegistry()),
        group="bench",
        shard_count=_SHARDS,
        shards=frozenset(range(_SHARDS)),
    )
    stop = Stop()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(pipeline.run(stop))
        while not await _done(pipeline):  # noqa: ASYNC110 - it must be asked
            await asyncio.sleep(0.05)
        stop.request("done")


async def _done(pipeline: Pipeline) -> bool:
    try:
        return pipeline.joined and await pipeline.lag() == 0
    except BrokerUnavailable:
        return False
