"""Raw record to durable tick, against publishing the same ticks with the same client.

The raw records are like those of a busy hour: the mix of channels of the live feed.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import nats

from services.common.runtime import tune_collector
from services.common.stream import Broker, GroupSubscription, Message, Record
from services.common.stream.memory.records import StoredRecord
from services.common.stream.nats.records import message_id
from services.common.subjects import StreamKey, key_of
from services.common.testing.raw_records import RawStream, raw_message
from services.common.wire import decode_raw
from services.normalizer.normalize import Normalizer
from tools.bench.ingest.venue_feed import PRODUCTS
from tools.bench.registry import Run, bench
from tools.bench.servers import SHARDS, broker, offer_all, publish, server
from tools.embedded.process import EmbeddedServer
from tools.replay.testing import normalizing

# Of 100 messages: book updates, tickers, trades.
_WEIGHTS = {"book": 70, "ticker": 18, "trades": 12}


def raw_records(count: int, seed: int = 1) -> Iterator[Record]:
    """`count` raw records of 20 products' streams, as the ingestor publishes them."""
    pick = random.Random(seed)
    streams = {
        channel: [RawStream(StreamKey("coinbase", channel, product)) for product in PRODUCTS]
        for channel in _WEIGHTS
    }
    channels = pick.choices(list(_WEIGHTS), list(_WEIGHTS.values()), k=count)
    for channel in channels:
        stream = pick.choice(streams[channel])
        # Only the newest is looked at, and a benchmark makes very many.
        del stream.records[:-1]
        if channel == "book":
            rows = [
                (pick.choice(("buy", "sell")), f"{pick.random() * 1e5:.2f}", f"{pick.random():.8f}")
                for _ in range(pick.choice((1, 1, 2, 3, 5, 8)))
            ]
            yield raw_message(stream.changes(stream.seq + 50_000, rows))
        elif channel == "ticker":
            yield raw_message(stream.ticker(stream.seq + pick.randint(1, 90)))
        else:
            yield raw_message(stream.match(stream.seq + 1))


# Worked on before the clock starts: connecting, joining and looking up heads belong to a start.
_WARM_UP = 5_000


@bench("normalizer")
async def normalizer(run: Run) -> None:
    """Raw record to durable tick, against a bare pipelined publish of the same ticks."""
    count = 200_000 if run.full else 5_000 if run.quick else 50_000
    raw = list(raw_records(_WARM_UP + count))
    usual = "nats: nats-py's publish_async of the ticks"
    pure = "pure part alone: decode, map, encode"
    messages = _stored(raw)
    ticks = list(_map(messages))
    # What stands here for the whole run is none of the collector's business.
    tune_collector()
    for _ in range(run.rounds):
        with run.measure(pure) as sample:
            sample.count = len(messages)
            deque(_map(messages), maxlen=0)
    for kind in ("nats", "redis"):
        whole, bare = f"{kind}: raw to durable tick", f"{kind}: bare publish of the ticks"
        take = f"{kind}: take and acknowledge alone"
        for _ in range(run.rounds):
            async with server(kind) as on, broker(kind, on) as found:
                await publish(found, raw)
                await normalize(run, whole, [on], found, len(raw))
                await _take(run, take, on, found, len(raw))
            async with server(kind) as on, broker(kind, on) as found:
                await _publish(run, bare, on, found, ticks)
            if kind == "nats":
                async with server(kind) as on, broker(kind, on):
                    with run.measure(usual, on) as sample:
                        sample.count = count
                        await _publish_async(on.url, ticks[:count])
        spent, published = run.case(whole).client_us()[0], run.case(bare).client_us()[0]
        parts = published + sum(run.case(case).client_us()[0] for case in (take, pure))
        note = f"{1e6 / spent:,.0f}/s per core; ratio {published / spent:.2f}, parts {parts:.1f}"
        if kind == "nats":
            note += f"; ratio to nats-py's {run.case(usual).client_us()[0] / spent:.2f}"
        run.note(whole, note)


async def _take(run: Run, case: str, on: EmbeddedServer, found: Broker, records: int) -> None:
    member = await found.group("raw", "take")
    left = records - len(await _acked(member))
    with run.measure(case, on) as sample:
        sample.count = left
        while left > 0:
            left -= len(await _acked(member))
    await member.aclose()


async def _acked(member: GroupSubscription) -> Sequence[Message]:
    batch = await member.next_batch()
    await member.ack(batch)
    return batch


def _stored(records: Iterable[Record]) -> list[Message]:
    """As they would be delivered."""
    return [StoredRecord(record, seq, str(seq), 0.0) for seq, record in enumerate(records, 1)]


def _map(messages: Iterable[Message]) -> Iterator[Record]:
    """The tick log's records, as the pipeline makes them."""
    normalizer = Normalizer(SHARDS)
    for message in messages:
        if (record := normalizer.fast_path.normalize(message)) is not None:
            yield record
            continue
        raw = decode_raw(message.payload)
        yield from normalizer.normalize(key_of(message.subject), raw).records


async def _publish(
    run: Run, case: str, on: EmbeddedServer, found: Broker, records: Sequence[Record]
) -> None:
    publisher = await found.publisher()
    await offer_all(publisher, records[:_WARM_UP])
    rest = records[_WARM_UP:]
    with run.measure(case, on) as sample:
        sample.count = len(rest)
        await offer_all(publisher, rest)
    await publisher.aclose()


async def _publish_async(url: str, records: Sequence[Record]) -> None:
    """As a program that uses nats-py plainly would: windowed acks and message ids, no more."""
    client = await nats.connect(url)
    jetstream = client.jetstream(publish_async_max_pending=4096)
    for record in records:
        headers = {"Nats-Msg-Id": message_id(record.subject, record.position)}
        await jetstream.publish_async(record.subject, record.payload, headers=headers)
    await jetstream.publish_async_completed()
    await client.close()


async def normalize(
    run: Run, case: str, servers: Sequence[EmbeddedServer], found: Broker, records: int
) -> None:
    """Measure as `case` how `records` of the raw log, which are there, become durable ticks."""
    async with normalizing(found, SHARDS) as pipeline:
        while pipeline.published < _WARM_UP:  # noqa: ASYNC110 - it must be asked
            await asyncio.sleep(0.001)
        with run.measure(case, *servers) as sample:
            sample.count = records - pipeline.published
            while pipeline.published < records:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.02)
            while await pipeline.lag():  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.02)
