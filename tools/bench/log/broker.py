"""What the broker's own ways cost: publish, take by a group, read in pages, seek, sync.

And ten thousand records of one subject out of a log of 64, by every way that JetStream has.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from services.common.stream import Broker, LogSpec, Position, Record
from services.common.stream.nats.broker import NatsBroker
from services.common.stream.nats.client import LeanClient
from tools.bench.registry import Run, bench
from tools.bench.servers import broker, publish, server
from tools.embedded import NatsServer
from tools.embedded.process import EmbeddedServer

SUBJECTS = [f"market.raw.coinbase.ticker.P{number:02d}-USD" for number in range(64)]
PAYLOAD = b"x" * 250
_SUBJECT = SUBJECTS[7]
_STREAM = "MARKET_RAW"
_READ = 10_000
_SEEKS = 50
_SINGLE = 200


def records(count: int, subjects: int = len(SUBJECTS)) -> Iterator[Record]:
    """250 bytes each, over so many subjects in turn."""
    for number in range(count):
        position = Position(1, number // subjects + 1)
        yield Record(SUBJECTS[number % subjects], PAYLOAD, position)


@bench("broker")
async def broker_ways(run: Run) -> None:
    """Publish, group, read and seek on each broker: 250-byte records over 64 subjects."""
    count = 1_000_000 if run.full else 100_000
    for kind in ("nats", "redis"):
        async with server(kind) as on, broker(kind, on) as found:
            with run.measure(f"{kind}: publish", on) as sample:
                sample.count = count
                await publish(found, records(count))
            for number in range(run.rounds):
                await _group(run, kind, on, found, number)
                await _read(run, kind, on, found, count)
                await _seek(run, kind, on, found, count)


async def _group(run: Run, kind: str, on: EmbeddedServer, found: Broker, number: int) -> None:
    member = await found.group("raw", f"bench-{number}")
    with run.measure(f"{kind}: group, take and ack", on) as sample:
        sample.count = 50_000
        left = sample.count
        while left > 0:
            batch = await member.next_batch()
            await member.ack(batch)
            left -= len(batch)
    await member.aclose()


async def _read(run: Run, kind: str, on: EmbeddedServer, found: Broker, count: int) -> None:
    """The newest records of one subject, as a backfill reads them."""
    held = count // len(SUBJECTS)
    wanted = min(_READ, held)
    cursor = await found.seek(_SUBJECT, Position(1, held - wanted))
    case = f"{kind}: read {wanted:,} of one subject, pages of 1,000"
    await _pages(run, case, on, found, cursor, wanted, 1000)


async def _pages(
    run: Run, case: str, on: EmbeddedServer, found: Broker, cursor: str, wanted: int, limit: int
) -> None:
    with run.measure(case, on) as sample:
        while sample.count < wanted:
            page = await found.read(_SUBJECT, cursor, limit=limit)
            sample.count += len(page.messages)
            cursor = page.cursor


async def _seek(run: Run, kind: str, on: EmbeddedServer, found: Broker, count: int) -> None:
    pick = random.Random(5)
    most = 0
    case = f"{kind}: seek in {count:,} records"
    with run.measure(case, on, unit="seek") as sample:
        sample.count = _SEEKS
        for _ in range(_SEEKS):
            before = _requests(found)
            await found.seek(
                pick.choice(SUBJECTS), Position(1, pick.randrange(count // len(SUBJECTS)))
            )
            most = max(most, _requests(found) - before)
    if isinstance(found, NatsBroker):
        run.note(case, f"at most {most} round trips")


def _requests(found: Broker) -> int:
    return found.requests if isinstance(found, NatsBroker) else 0


@bench("sync")
async def sync(run: Run) -> None:
    """JetStream's sync_interval: the default of 2 minutes, 10 s, and always."""
    for _ in range(run.rounds):
        for interval in ("2m", "10s", "always"):
            async with NatsServer(sync_interval=interval) as on, NatsBroker([on.url]) as found:
                await found.ensure([LogSpec("raw", 3600)])
                with run.measure(f"{interval}: pipelined", on) as sample:
                    sample.count = 20_000 if run.full else 5_000
                    await publish(found, records(sample.count))
                publisher = await found.publisher()
                with run.measure(f"{interval}: one after the other", on) as sample:
                    sample.count = _SINGLE
                    for number in range(_SINGLE):
                        record = Record(SUBJECTS[0], PAYLOAD, Position(2, number + 1))
                        await publisher.durable(await publisher.send(record))
                await publisher.aclose()


@bench("reads")
async def reads(run: Run) -> None:
    """Reading 10,000 records of one subject: the broker's way beside what JetStream offers."""
    count = 1_000_000 if run.full else 64 * _READ
    async with server("nats") as on, broker("nats", on) as found:
        await publish(found, records(count))
        held = count // len(SUBJECTS)
        cursor = await found.seek(_SUBJECT, Position(1, held - _READ))
        after = int(cursor.partition("@")[2])
        client = await nats.connect(on.url)
        lean = LeanClient()
        await lean.connect(on.url)
        for _ in range(run.rounds):
            for limit in (1_000, 10_000):
                case = f"Broker.read, pages of {limit:,} (batched direct get)"
                await _pages(run, case, on, found, cursor, _READ, limit)
            await _by_direct_get(run, on, client, after)
            await _by_one_pull(run, on, client, after)
            await _by_ordered_consumer(run, on, client, after)
            await _by_core(run, on, lean)
        await client.close()
        await lean.close()


async def _by_direct_get(run: Run, on: EmbeddedServer, client: Client, after: int) -> None:
    arrived = asyncio.Event()
    last: dict[str, str] = {}

    async def take(message: Msg) -> None:
        headers = message.headers or {}
        if "Nats-Sequence" in headers:
            last.update(headers)
            sample.count += 1
        else:
            arrived.set()

    inbox = client.new_inbox()
    subscription = await client.subscribe(inbox, cb=take)
    with run.measure("nats-py: batched direct get, 1,000 each", on) as sample:
        while sample.count < _READ:
            arrived.clear()
            body = {"seq": after + 1, "next_by_subj": _SUBJECT, "batch": 1000}
            await client.publish(
                f"$JS.API.DIRECT.GET.{_STREAM}", json.dumps(body).encode(), reply=inbox
            )
            await arrived.wait()
            after = int(last["Nats-Sequence"])
    await subscription.unsubscribe()


async def _by_one_pull(run: Run, on: EmbeddedServer, client: Client, after: int) -> None:
    jetstream = client.jetstream()
    with run.measure("nats-py: consumer, one pull of 10,000", on) as sample:
        pull = await jetstream.pull_subscribe(
            _SUBJECT,
            stream=_STREAM,
            config=ConsumerConfig(
                deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
                opt_start_seq=after + 1,
                ack_policy=AckPolicy.NONE,
            ),
        )
        while sample.count < _READ:
            sample.count += len(await pull.fetch(_READ - sample.count, timeout=10))
    await pull.unsubscribe()


async def _by_ordered_consumer(run: Run, on: EmbeddedServer, client: Client, after: int) -> None:
    done = asyncio.Event()

    async def take(_message: Msg) -> None:
        sample.count += 1
        if sample.count >= _READ:
            done.set()

    with run.measure("nats-py: ordered consumer, callback", on) as sample:
        ordered = await client.jetstream().subscribe(
            _SUBJECT,
            stream=_STREAM,
            ordered_consumer=True,
            cb=take,
            config=ConsumerConfig(
                deliver_policy=DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=after + 1
            ),
        )
        await done.wait()
    await ordered.unsubscribe()


async def _by_core(run: Run, on: EmbeddedServer, lean: LeanClient) -> None:
    """The floor: the same bytes without JetStream, sent here and received here."""
    done = asyncio.Event()

    def take(_subject: str, _reply: str, _headers: bytes, _payload: bytes) -> None:
        sample.count += 1
        if sample.count == _READ:
            done.set()

    sid = lean.attach("bench.core", take)
    await lean.flush()
    frame = f"PUB bench.core {len(PAYLOAD)}\r\n".encode() + PAYLOAD + b"\r\n"
    with run.measure(
        "core subscription, own client, same payloads (sending included)", on
    ) as sample:
        for _ in range(_READ // 100):
            lean.write(frame * 100)
            await lean.drained()
        await done.wait()
    lean.detach(sid)
