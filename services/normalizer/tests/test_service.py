"""The real process on real brokers: start, readiness, stop, and being killed under load."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import tempfile
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from services.common.settings import CommonSettings
from services.common.sharding import shard_of
from services.common.stream import Broker
from services.common.stream.factory import open_broker
from services.common.stream.specs import log_specs
from services.common.subjects import StreamKey, tick_log, tick_subject
from services.common.testing.nats_cluster import NatsCluster, fill, make_room
from services.common.testing.raw_records import RawStream, log_bytes, publish_all
from services.common.testing.waiting import eventually
from services.common.wire import RawRecord
from services.normalizer.normalize import Normalizer
from services.normalizer.restore import patiently
from tools.embedded import NatsServer, ValkeyServer, free_port
from tools.stack.process import Process

SHARDS = 3
PRODUCTS = ["BTC-USD", "ETH-USD", "SOL-USD", "ADA-USD"]
# `make bench-crash` does 20, and on all kinds of broker.
KILLS = int(os.environ.get("NORMALIZER_KILLS", "6"))
KINDS = ["nats"] if KILLS <= 6 else ["nats", "nats with replicas", "redis"]
# A broker's settings, as a service's environment has them.
Environment = dict[str, str]


class Service(Process):
    """A running `python -m services.normalizer`, which is started once it answers HTTP."""

    def __init__(self, folder: Path, environment: Environment) -> None:
        super().__init__(
            "normalizer",
            "services.normalizer",
            port=free_port(),
            log_dir=folder,
            ready_path="/healthz",
            environment=lambda port: {**os.environ, **environment, "HTTP_PORT": str(port)},
        )

    async def get(self, path: str) -> httpx.Response:
        # As long as a busy machine takes.
        async with httpx.AsyncClient(timeout=60) as client:
            return await client.get(self.url + path)

    async def is_ready(self) -> bool:
        return (await self.get("/readyz")).status_code == 200


@contextlib.asynccontextmanager
async def service(on: NatsServer | Environment) -> AsyncIterator[Service]:
    environment = {
        **({"NATS_URLS": on.url} if isinstance(on, NatsServer) else on),
        "SHARD_COUNT": str(SHARDS),
        "HTTP_HOST": "127.0.0.1",
        "LOG_FORMAT": "json",
    }
    with tempfile.TemporaryDirectory() as folder:
        running = Service(Path(folder), environment)
        try:
            await running.start()
            yield running
        finally:
            await running.kill()


@pytest.fixture(params=KINDS)
async def each_kind(request: pytest.FixtureRequest) -> AsyncIterator[Environment]:
    """A broker of each kind."""
    if request.param == "redis":
        async with ValkeyServer() as valkey:
            yield {"BROKER_KIND": "redis", "REDIS_URL": valkey.url}
    elif request.param == "nats":
        async with NatsServer() as nats:
            yield {"NATS_URLS": nats.url}
    else:
        async with NatsCluster() as cluster:
            urls = ",".join(server.url for server in cluster.servers)
            yield {"NATS_URLS": urls, "JS_REPLICAS": str(len(cluster.servers))}


@pytest.fixture
async def broker(nats_server: NatsServer) -> AsyncIterator[Broker]:
    async with opened({"NATS_URLS": nats_server.url}) as found:
        yield found


@contextlib.asynccontextmanager
async def opened(environment: Environment) -> AsyncIterator[Broker]:
    values = {name.lower(): value for name, value in environment.items()}
    settings = CommonSettings.model_validate({**values, "shard_count": SHARDS})
    async with open_broker(settings) as found:
        # A cluster may need a moment until it can place replicas.
        await patiently(lambda: found.ensure(log_specs(settings)))
        yield found


def session(steps: int) -> list[RawRecord]:
    streams = [
        RawStream(StreamKey("coinbase", channel, product))
        for product in PRODUCTS
        for channel in ("ticker", "trades", "book")
    ]
    records = [stream.status() for stream in streams]
    pick = random.Random(4)
    for step in range(1, steps + 1):
        for stream in streams:
            if pick.random() < 0.02:
                records.append(stream.status(pick.choice(["quiet", "live", "stale"])))
            if stream.key.channel == "trades":
                if pick.random() < 0.01:
                    records.append(stream.gap(stream.seq + 3))
                bad = {"side": "none"} if pick.random() < 0.005 else {}
                records.append(stream.match(stream.seq + 1, **bad))
            elif stream.key.channel == "ticker":
                records.append(stream.ticker(stream.seq + pick.randint(1, 99)))
            elif step % 200 == 1:
                seq = stream.seq + 1000
                records.append(stream.snapshot(seq, [["10", "1"]], [["11", "1"]]))
            else:
                records.append(stream.changes(stream.seq + 1000, [("buy", "10", str(step))]))
    return records


def undisturbed(records: list[RawRecord]) -> dict[str, list[bytes]]:
    normalizer = Normalizer(SHARDS)
    found: dict[str, list[bytes]] = {}
    for record in records:
        key = StreamKey(record.venue, record.channel, record.product)
        for out in normalizer.normalize(key, record).records:
            found.setdefault(out.subject, []).append(out.payload)
    return found


async def ticks(broker: Broker) -> dict[str, list[bytes]]:
    found: dict[str, list[bytes]] = {}
    for shard in range(SHARDS):
        found |= await log_bytes(broker, tick_log(shard))
    return found


async def test_it_gets_ready_works_and_stops_with_everything_acknowledged(
    nats_server: NatsServer, broker: Broker
) -> None:
    records = session(50)
    whole = undisturbed(records)
    await publish_all(broker, records)
    async with service(nats_server) as running:
        await eventually(running.is_ready)
        await eventually(lambda: holds(broker, whole))
        info = (await running.get("/info")).json()
        assert (info["shards"], info["group"]) == ([0, 1, 2], "normalizer-all")
        await running.stop()
        assert await running.wait() == 0
    assert await ticks(broker) == whole
    member = await broker.group("raw", "normalizer-all")
    assert await member.lag() == 0
    await member.aclose()


async def holds(broker: Broker, whole: dict[str, list[bytes]]) -> bool:
    """Whether every stream's newest tick is there."""
    for subject, payloads in whole.items():
        last = await patiently(partial(broker.last, subject))
        if last is None or last.payload != payloads[-1]:
            return False
    return True


@pytest.mark.timeout(300 + 15 * KILLS)
async def test_killed_again_and_again_under_load_it_writes_what_an_undisturbed_run_writes(
    each_kind: Environment,
) -> None:
    async with opened(each_kind) as broker:
        await killed_again_and_again(each_kind, broker)


async def killed_again_and_again(environment: Environment, broker: Broker) -> None:
    records = session(max(2500, 400 * KILLS))
    whole = undisturbed(records)
    watched = StreamKey("coinbase", "trades", "BTC-USD")
    subject = tick_subject(shard_of("BTC-USD", SHARDS), watched)
    newest = records[-1].seq
    pick = random.Random(7)

    async def load() -> None:
        for start in range(0, len(records), 250):
            await publish_all(broker, records[start : start + 250])
            # The pace of the load; nothing is waited for.
            await asyncio.sleep(0.02)

    async def position() -> int:
        last = await broker.last(subject)
        return 0 if last is None else last.position.seq

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(load())
        for _ in range(KILLS):
            async with service(environment) as running:
                target = await position() + pick.randint(1, 300)

                async def reached(target: int = target) -> bool:
                    return await position() >= min(target, newest)

                await eventually(reached)
                await running.kill()
    async with service(environment):
        await eventually(lambda: holds(broker, whole))
    assert await ticks(broker) == whole


async def test_it_is_not_ready_while_the_broker_is_away_and_goes_on_when_it_is_back(
    nats_server: NatsServer, broker: Broker
) -> None:
    records = session(40)
    whole = undisturbed(records)
    async with service(nats_server) as running:
        await publish_all(broker, records[:200])
        await eventually(running.is_ready)
        await nats_server.kill()

        async def not_ready() -> bool:
            return not await running.is_ready()

        await eventually(not_ready)
        report = (await running.get("/readyz")).json()
        assert report["checks"]["broker"]["reason"]
        assert (await running.get("/healthz")).status_code == 200
        await nats_server.start()
        await publish_all(broker, records[200:])
        await eventually(lambda: holds(broker, whole))
        await eventually(running.is_ready)
        text = (await running.get("/metrics")).text
        assert 'md_normalized_total{channel="trades"' in text
        assert "md_shard_lag_messages" in text
    assert await ticks(broker) == whole


async def test_it_is_not_ready_while_the_broker_answers_and_stores_nothing() -> None:
    records = session(40)
    whole = undisturbed(records)
    async with (
        NatsServer(max_file_store="2MB") as nats,
        opened({"NATS_URLS": nats.url}) as broker,
    ):
        await publish_all(broker, records)
        await fill(broker)
        async with service(nats) as running:
            said: list[str] = []

            async def told() -> bool:
                report = (await running.get("/readyz")).json()
                said.append(str(report["checks"]["broker"]["reason"]))
                return "nothing stored" in said[-1]

            await eventually(told)
            assert "insufficient resources" in said[-1]
            # What others do with that server still works.
            await broker.ping()
            gauge = 'md_broker_unconfirmed_seconds{stage="tick_log"} '
            found = (await running.get("/metrics")).text.partition(gauge)[2].partition("\n")[0]
            assert float(found) > 0
            await make_room(broker)
            await eventually(running.is_ready)
            await eventually(lambda: holds(broker, whole))
        assert await ticks(broker) == whole


async def test_it_waits_for_a_broker_that_is_not_there_yet_and_stops_while_it_waits() -> None:
    nats = NatsServer()
    await nats.start()
    await nats.stop()
    async with service(nats) as running:
        assert not await running.is_ready()
        await running.stop()
        assert await running.wait() == 0
    await nats.close()
