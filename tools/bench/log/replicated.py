"""What a log with three replicas takes: in atomic batches, and record by record."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

import nats

from services.common.errors import BrokerUnavailable
from services.common.settings import CommonSettings
from services.common.stream import LogSpec
from services.common.stream.nats.broker import NatsBroker
from services.common.stream.specs import log_specs
from services.common.subjects import jetstream_name
from services.common.testing.conformance import until
from services.common.testing.nats_cluster import NatsCluster
from services.common.wire import encode
from tools.bench.ingest.normalizer import normalize, raw_records
from tools.bench.log.broker import records
from tools.bench.registry import Run, bench
from tools.bench.servers import SHARDS, publish

_NAMES = {True: "atomic batches", False: "record by record"}


@bench("replicated", on_request=True)
async def replicated(run: Run) -> None:
    """A cluster of three on loopback: publishing and normalizing on logs with three replicas."""
    async with NatsCluster() as cluster:
        for _ in range(run.rounds):
            for count in (1, 8, 64):
                for atomic in (True, False):
                    await _publishing(run, cluster, count, atomic=atomic)
    for _ in range(run.rounds):
        for atomic in (True, False):
            # A fresh one, as positions repeat.
            async with NatsCluster() as cluster:
                await _normalizing(run, cluster, atomic=atomic)
    for case in run.cases.values():
        wall_ms = case.wall_ms()[0]
        run.note(case.name, f"{1e3 * case.samples[0].count / wall_ms:,.0f} records/s")


async def _publishing(run: Run, cluster: NatsCluster, subjects: int, *, atomic: bool) -> None:
    # Record by record, one of each subject is on its way.
    count = 20_000 if atomic or subjects == 64 else 1_000 * subjects
    if run.quick:
        count //= 10
    async with _broker(cluster, ["raw"], atomic=atomic) as broker:
        case = f"publish, {subjects} subjects, {_NAMES[atomic]}"
        with run.measure(case, *cluster.servers) as sample:
            sample.count = count
            await publish(broker, records(count, subjects))
        state = (await broker.api("STREAM.INFO.MARKET_RAW"))["state"]
        if int(state["messages"]) != count:
            raise AssertionError(f"{case}: {state['messages']} stored, {count} sent")
        await broker.api("STREAM.DELETE.MARKET_RAW")


async def _normalizing(run: Run, cluster: NatsCluster, *, atomic: bool) -> None:
    raw = list(raw_records(6_000 if run.quick else 25_000))
    logs = [spec.log for spec in log_specs(CommonSettings(shard_count=SHARDS))]
    async with _broker(cluster, logs, atomic=atomic) as broker:
        await publish(broker, raw)
        case = f"raw to durable tick, {_NAMES[atomic]}"
        await normalize(run, case, cluster.servers, broker, len(raw))


@asynccontextmanager
async def _broker(
    cluster: NatsCluster, logs: Sequence[str], *, atomic: bool
) -> AsyncIterator[NatsBroker]:
    async with cluster.broker() as broker:
        for log in logs:
            stream = jetstream_name("MARKET", log)
            await until(partial(_ready, broker, log, stream), 60)
            if not atomic:
                await _without_batches(broker, stream, cluster.servers[0].url)
        yield broker


async def _ready(broker: NatsBroker, log: str, stream: str) -> bool:
    """Whether the log is there, has a leader, and all its replicas are up to date."""
    await broker.ensure([LogSpec(log, 3600)])
    cluster = (await broker.api(f"STREAM.INFO.{stream}"))["cluster"]
    replicas = cluster.get("replicas", [])
    return bool(cluster.get("leader")) and all(replica["current"] for replica in replicas)


async def _without_batches(broker: NatsBroker, stream: str, url: str) -> None:
    config = (await broker.api(f"STREAM.INFO.{stream}"))["config"] | {"allow_atomic": False}
    client = await nats.connect(url)
    try:
        answer = await client.request(f"$JS.API.STREAM.UPDATE.{stream}", encode(config), timeout=5)
    finally:
        await client.close()
    if "error" in json.loads(answer.data):
        raise BrokerUnavailable(url, answer.data.decode())
