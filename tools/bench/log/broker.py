"""What the broker's own ways cost: publish, take by a group, read in pages, seek, sync."""

from __future__ import annotations

import random
from collections.abc import Iterator

from services.common.stream import Broker, LogSpec, Position, Record
from services.common.stream.nats.broker import NatsBroker
from tools.bench.registry import Run, bench
from tools.bench.servers import broker, publish, server
from tools.embedded import NatsServer
from tools.embedded.process import EmbeddedServer

SUBJECTS = [f"market.raw.coinbase.ticker.P{number:02d}-USD" for number in range(64)]
PAYLOAD = b"x" * 250
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
    cursor = await found.seek(SUBJECTS[7], Position(1, held - wanted))
    with run.measure(f"{kind}: read {wanted:,} of one subject, pages of 1,000", on) as sample:
        while sample.count < wanted:
            page = await found.read(SUBJECTS[7], cursor, limit=1000)
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
