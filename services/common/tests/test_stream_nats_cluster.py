"""A JetStream cluster of three on loopback: what changes when a stream's leader dies."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

import pytest

from services.common.errors import RecordRefused
from services.common.stream import LogSpec, Position, Publisher, Record
from services.common.stream.nats.broker import NatsBroker
from services.common.testing.conformance import LOG, read_all, record, seqs, until
from services.common.testing.nats_cluster import NatsCluster
from tools.embedded import NatsServer

# Each kill has to wait until the killed server has caught up, so the suite does one.
KILLS = int(os.environ.get("CLUSTER_KILLS", "1"))
STEP_DOWNS = int(os.environ.get("CLUSTER_STEP_DOWNS", "2"))
STREAM = "MARKET_RAW"
SUBJECTS = [f"market.raw.coinbase.ticker.P{n}-USD" for n in range(6)]
RECORDS = 3_000


@pytest.fixture
async def cluster() -> AsyncIterator[NatsCluster]:
    async with NatsCluster() as found:
        yield found


@pytest.mark.timeout(300 + 90 * KILLS + 15 * STEP_DOWNS)
async def test_a_leader_that_goes_under_load_loses_nothing_and_doubles_nothing(
    cluster: NatsCluster,
) -> None:
    """The publisher's own connection stands, so it cannot see that the leader went.

    A leader that steps down loses what was on its way, and the next takes what comes after that.
    What each lane makes of that is tested without luck in `test_publish_order.py`.
    """
    async with cluster.broker() as broker:
        await until(lambda: _ensured(broker))
        sent = 0
        for _ in range(STEP_DOWNS):
            await _led(cluster, broker)
            publisher = await broker.publisher()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_load(publisher, sent))
                await until(lambda: _stored(publisher, 500))  # noqa: B023 - awaited here
                await broker.api(f"STREAM.LEADER.STEPDOWN.{STREAM}")
            await publisher.flush()
            await publisher.aclose()
            sent += RECORDS
        for number in range(KILLS):
            if number:
                await until(lambda: _whole(broker), 90)
            leader = await _led(cluster, broker)
            async with cluster.broker(beside=leader) as other:
                publisher = await other.publisher()
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(_load(publisher, sent))
                    await until(lambda: _stored(publisher, 500))  # noqa: B023 - awaited here
                    await leader.kill()
                await publisher.flush()
                await publisher.aclose()
            sent += RECORDS
            await leader.start()
        await _led(cluster, broker)
        for subject in SUBJECTS:
            assert seqs(await read_all(broker, subject), subject) == list(range(1, sent + 1))


async def test_two_publishers_of_the_same_records_make_one_log_with_replicas(
    cluster: NatsCluster,
) -> None:
    """Each sees its batches refused for what the other has stored, and goes on record by record."""
    async with cluster.broker() as one, cluster.broker() as other:
        await until(lambda: _ensured(one))
        await _led(cluster, one)
        publishers = [await one.publisher(), await other.publisher()]
        async with asyncio.TaskGroup() as tasks:
            for publisher in publishers:
                tasks.create_task(_load(publisher, 0, 300))
        for publisher in publishers:
            await publisher.flush()
        stats = [publisher.stats() for publisher in publishers]
        for subject in SUBJECTS:
            assert seqs(await read_all(one, subject), subject) == list(range(1, 301))
        assert sum(found.in_flight for found in stats) == 0


async def test_a_record_that_is_refused_for_good_is_told_and_all_others_are_stored(
    cluster: NatsCluster,
) -> None:
    """With it no batch is whole; so its records are sent one by one, and it is found."""
    async with cluster.broker() as broker:
        await until(lambda: _ensured(broker))
        await _led(cluster, broker)
        connection = broker._current()
        config = (await connection.api(f"STREAM.INFO.{STREAM}"))["config"]
        await connection.api(f"STREAM.UPDATE.{STREAM}", config | {"max_msg_size": 400})
        told: list[Position] = []

        def on_refused(refused: Record, _error: RecordRefused) -> None:
            told.append(refused.position)

        publisher = await broker.publisher(on_refused=on_refused)
        for n in range(1, 41):
            await publisher.send(record(n, SUBJECTS[0]))
            if n == 20:
                await publisher.send(Record(SUBJECTS[0], b"x" * 500, Position(1, 20, 1)))
        await publisher.flush()
        assert told == [Position(1, 20, 1)]
        found = await read_all(broker, SUBJECTS[0])
        assert seqs(found, SUBJECTS[0]) == list(range(1, 41))


async def test_readers_see_everything_acknowledged_though_replicas_lag(
    cluster: NatsCluster,
) -> None:
    """Any replica answers a direct get, and one of them may not have the newest records yet."""
    async with cluster.broker() as broker:
        await until(lambda: _ensured(broker))
        await _led(cluster, broker)
        publisher = await broker.publisher()
        cursor = (await broker.read(SUBJECTS[0])).cursor
        for n in range(1, 301):
            await publisher.durable(await publisher.send(record(n, SUBJECTS[0])))
            newest = await broker.last(SUBJECTS[0])
            assert newest is not None
            assert newest.position.seq == n
            page = await broker.read(SUBJECTS[0], cursor)
            assert seqs(page.messages, SUBJECTS[0]) == [n]
            cursor = page.cursor
            found = await broker.read(
                SUBJECTS[0], await broker.seek(SUBJECTS[0], Position(1, n - 1))
            )
            assert seqs(found.messages, SUBJECTS[0]) == [n]


async def _ensured(broker: NatsBroker) -> bool:
    await broker.ensure([LogSpec(LOG, 3600)])
    return True


async def _led(cluster: NatsCluster, broker: NatsBroker) -> NatsServer:
    """Wait until the stream has a leader that runs."""
    found: list[NatsServer] = []

    async def led() -> bool:
        found.append(await cluster.leader(broker, STREAM))
        return True

    await until(led, 90)
    return found[-1]


async def _whole(broker: NatsBroker) -> bool:
    """Whether all replicas of the stream are there and up to date."""
    cluster = (await broker.api(f"STREAM.INFO.{STREAM}"))["cluster"]
    replicas = cluster.get("replicas", [])
    return bool(cluster.get("leader")) and all(replica["current"] for replica in replicas)


async def _stored(publisher: Publisher, count: int) -> bool:
    return publisher.stats().stored >= count


async def _load(publisher: Publisher, sent: int, count: int = RECORDS) -> None:
    for n in range(sent + 1, sent + count + 1):
        for subject in SUBJECTS:
            await publisher.send(record(n, subject))
