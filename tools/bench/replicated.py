"""What a log with three replicas takes: in atomic batches, and record by record."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import nats

from services.common.errors import BrokerUnavailable
from services.common.stream import LogSpec, Position, Record
from services.common.stream.nats import NatsBroker
from services.common.testing.conformance import until
from services.common.testing.nats_cluster import NatsCluster
from services.common.wire import encode
from tools.bench.registry import Run, bench
from tools.bench.servers import publish

_STREAM = "MARKET_RAW"
_PAYLOAD = b"x" * 250


@bench("replicated", on_request=True)
async def replicated(run: Run) -> None:
    """A cluster of three on loopback: pipelined publishing to a log with three replicas."""
    async with NatsCluster() as cluster:
        for _ in range(run.rounds):
            for count in (1, 8, 64):
                # Record by record, one of each subject is on its way.
                single = 1_000 * min(count, 8) * (4 if run.full else 1)
                await _measure(run, cluster, f"{count} subjects, atomic batches", count, 20_000)
                await _measure(
                    run, cluster, f"{count} subjects, record by record", count, single, atomic=False
                )
    for case in run.cases.values():
        wall_ms = case.wall_ms()[0]
        run.note(case.name, f"{1e3 * case.samples[0].count / wall_ms:,.0f} records/s")


async def _measure(
    run: Run, cluster: NatsCluster, case: str, subjects: int, count: int, *, atomic: bool = True
) -> None:
    async with cluster.broker() as broker:
        await until(lambda: _ready(broker))
        if not atomic:
            await _without_batches(broker, cluster.servers[0].url)
        before = int((await broker.api(f"STREAM.INFO.{_STREAM}"))["state"]["messages"])
        with run.measure(case) as sample:
            sample.count = count
            await publish(broker, _records(subjects, count))
        state = (await broker.api(f"STREAM.INFO.{_STREAM}"))["state"]
        if int(state["messages"]) - before != count:
            raise AssertionError(f"{case}: {state['messages']} stored after {before}, sent {count}")


def _records(subjects: int, count: int) -> Iterator[Record]:
    # Positions that no earlier round has used.
    epoch = time.time_ns() // 1000
    names = [f"market.raw.coinbase.ticker.P{number:02d}-USD" for number in range(subjects)]
    for number in range(count):
        yield Record(names[number % subjects], _PAYLOAD, Position(epoch, number // subjects + 1))


async def _ready(broker: NatsBroker) -> bool:
    """Whether the log is there, has a leader, and all its replicas are up to date."""
    await broker.ensure([LogSpec("raw", 3600)])
    cluster = (await broker.api(f"STREAM.INFO.{_STREAM}"))["cluster"]
    replicas = cluster.get("replicas", [])
    return bool(cluster.get("leader")) and all(replica["current"] for replica in replicas)


async def _without_batches(broker: NatsBroker, url: str) -> None:
    config = (await broker.api(f"STREAM.INFO.{_STREAM}"))["config"] | {"allow_atomic": False}
    client = await nats.connect(url)
    try:
        answer = await client.request(f"$JS.API.STREAM.UPDATE.{_STREAM}", encode(config), timeout=5)
    finally:
        await client.close()
    if "error" in json.loads(answer.data):
        raise BrokerUnavailable(url, answer.data.decode())
