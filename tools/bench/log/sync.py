"""What it costs JetStream to sync to the disk before it acknowledges."""

from __future__ import annotations

from services.common.stream import LogSpec, Position, Record
from services.common.stream.nats.broker import NatsBroker
from tools.bench.log.broker import PAYLOAD, SUBJECTS, records
from tools.bench.registry import Run, bench
from tools.bench.servers import publish
from tools.embedded import NatsServer

_SINGLE = 200


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
