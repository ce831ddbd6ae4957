"""Ten thousand records of one subject out of a log of 64, by every way that JetStream has."""

from __future__ import annotations

import asyncio
import json

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from services.common.stream import Broker, Position
from services.common.stream.nats.client import LeanClient
from tools.bench.log.broker import PAYLOAD, SUBJECTS, records
from tools.bench.registry import Run, bench
from tools.bench.servers import broker, publish, server
from tools.embedded.process import EmbeddedServer

_STREAM = "MARKET_RAW"
_SUBJECT = SUBJECTS[7]
_READ = 10_000


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
                await _by_broker(run, on, found, cursor, limit)
            await _by_direct_get(run, on, client, after)
            await _by_one_pull(run, on, client, after)
            await _by_ordered_consumer(run, on, client, after)
            await _by_core(run, on, lean)
        await client.close()
        await lean.close()


async def _by_broker(run: Run, on: EmbeddedServer, found: Broker, cursor: str, limit: int) -> None:
    with run.measure(f"Broker.read, pages of {limit:,} (batched direct get)", on) as sample:
        while sample.count < _READ:
            page = await found.read(_SUBJECT, cursor, limit=limit)
            sample.count += len(page.messages)
            cursor = page.cursor


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
