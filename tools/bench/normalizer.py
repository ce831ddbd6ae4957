"""Raw record to durable tick, against publishing the same ticks with the same client."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import nats
from prometheus_client import CollectorRegistry

from services.common.errors import BrokerUnavailable
from services.common.runtime import Stop
from services.common.stream import Broker, Record
from services.common.stream.nats_records import message_id
from services.common.subjects import key_of
from services.common.wire import decode_raw
from services.normalizer.metrics import Metrics
from services.normalizer.normalize import Normalizer
from services.normalizer.pipeline import Pipeline
from tools.bench.registry import Run, bench
from tools.bench.servers import SHARDS, broker, publish, server
from tools.bench.traffic import raw_records


@bench("normalizer")
async def normalizer(run: Run) -> None:
    """Raw record to durable tick, against a bare pipelined publish of the same ticks."""
    count = 100_000 if run.full else 30_000
    raw = list(raw_records(count))
    ticks = _ticks(raw)
    usual = "nats: nats-py's publish_async of the ticks"
    for kind in ("nats", "redis"):
        whole, bare = f"{kind}: raw to durable tick", f"{kind}: bare publish of the ticks"
        for _ in range(run.rounds):
            async with server(kind) as on, broker(kind, on) as found:
                await publish(found, raw)
                with run.measure(whole, on) as sample:
                    sample.count = count
                    await _normalize(found)
            async with server(kind) as on, broker(kind, on) as found:
                with run.measure(bare, on) as sample:
                    sample.count = count
                    await publish(found, ticks)
            if kind == "nats":
                async with server(kind) as on, broker(kind, on):
                    with run.measure(usual, on) as sample:
                        sample.count = count
                        await _publish_async(on.url, ticks)
        spent = run.case(whole).client_us()[0]
        note = f"{1e6 / spent:,.0f}/s per core; ratio {run.case(bare).client_us()[0] / spent:.2f}"
        if kind == "nats":
            note += f", to nats-py's {run.case(usual).client_us()[0] / spent:.2f}"
        run.note(whole, note)
    with run.measure("pure part alone: decode, map, encode") as sample:
        sample.count = count
        _ticks(raw)


def _ticks(raw: Sequence[Record]) -> list[Record]:
    normalizer = Normalizer(SHARDS)
    return [
        Record(out.subject, out.payload, out.position)
        for record in raw
        for out in normalizer.take(key_of(record.subject), decode_raw(record.payload)).records
    ]


async def _publish_async(url: str, records: Sequence[Record]) -> None:
    """As a program that uses nats-py plainly would: windowed acks and message ids, no more."""
    client = await nats.connect(url)
    jetstream = client.jetstream(publish_async_max_pending=4096)
    for record in records:
        headers = {"Nats-Msg-Id": message_id(record.subject, record.position)}
        await jetstream.publish_async(record.subject, record.payload, headers=headers)
    await jetstream.publish_async_completed()
    await client.close()


async def _normalize(broker: Broker) -> None:
    pipeline = Pipeline(
        broker,
        Metrics(CollectorRegistry()),
        group="bench",
        shard_count=SHARDS,
        shards=frozenset(range(SHARDS)),
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
