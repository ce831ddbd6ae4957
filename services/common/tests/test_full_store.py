"""A store that is full: it is told while the server answers, and healed when there is room."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator, MutableMapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from services.common.errors import BrokerUnavailable
from services.common.stream import Broker, LogSpec, Position, Publisher, Record, records
from services.common.stream.nats import publisher as nats_publisher
from services.common.stream.nats.broker import NatsBroker
from services.common.stream.records import NOT_STORING_S, PublisherStats, Storing, storing
from services.common.stream.redis.broker import RedisBroker
from services.common.testing.conformance import BTC, ETH, LOG, PATIENCE_S, read_all, seqs, until
from tools.embedded import NatsServer, ValkeyServer

BODY = b"x" * 20_000
# 12 MB: more than the small stores below take.
COUNT = 300


def _stats(stalled_s: float, trouble: str | None = None) -> PublisherStats:
    return PublisherStats(9, 0, 0, 0, 9, 900, stalled_s=stalled_s, trouble=trouble)


def test_the_publisher_that_waits_longest_tells_whether_anything_is_stored() -> None:
    assert storing([]).problem is None
    assert storing([_stats(0.0), _stats(NOT_STORING_S - 0.1)]).problem is None
    found = storing([_stats(1.0), _stats(NOT_STORING_S + 7, "disk full"), _stats(2.0)])
    assert found == Storing(NOT_STORING_S + 7, 9, "disk full")
    assert found.problem == "nothing stored for 12 s, 9 records wait: disk full"
    assert "no answer" in str(storing([_stats(60.0)]).problem)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "NOT_STORING_S", 0.5)


async def _fill(broker: Broker) -> Publisher:
    """Give a publisher more than there is room for, in two subjects."""
    await broker.ensure([LogSpec(LOG, 3600)])
    await broker.ping()
    publisher = await broker.publisher()
    for n in range(1, COUNT + 1):
        for subject in (BTC, ETH):
            assert publisher.offer(Record(subject, BODY, Position(1, n))) is not None
    return publisher


async def _told(broker: Broker, *words: str) -> str:
    """Wait until `ping` says that nothing is stored, in these words; what it says."""
    said: list[str] = []

    async def told() -> bool:
        try:
            await broker.ping()
        except BrokerUnavailable as error:
            said.append(error.reason)
        return bool(said) and all(word in said[-1] for word in words)

    await until(told)
    return said[-1]


async def _stores_again(broker: Broker, publisher: Publisher, kept_from: int = 1) -> None:
    """Everything is stored, once and in order; of each subject's records from `kept_from` on."""
    async with asyncio.timeout(PATIENCE_S):
        await publisher.flush()
    await until(lambda: _pings(broker))
    stats = publisher.stats()
    assert (stats.lost, stats.in_flight, stats.trouble) == (0, 0, None)
    for subject in (BTC, ETH):
        held = seqs(await read_all(broker, subject), subject)
        assert held == list(range(held[0], COUNT + 1))
        assert held[0] <= kept_from


async def _pings(broker: Broker) -> bool:
    await broker.ping()
    return True


async def _serves_readers(full: Broker, other: Broker) -> None:
    """Who only reads, as a gateway does, can begin and is well, while who writes is not."""
    with pytest.raises(BrokerUnavailable):
        await full.ping()
    async with asyncio.timeout(PATIENCE_S), other:
        await other.ensure([LogSpec(LOG, 3600)])
        await other.ping()
        live = await other.live(LOG)
        assert seqs(await read_all(other)) == seqs(await read_all(full))
        await live.aclose()


# ---------------------------------------------------------------------- NATS


@pytest.mark.usefixtures("impatient")
async def test_a_jetstream_at_its_limit_is_told_and_goes_on_when_there_is_room() -> None:
    async with (
        NatsServer(max_file_store="4MB") as server,
        NatsBroker([server.url]) as broker,
    ):
        publisher = await _fill(broker)
        said = await _told(broker, "insufficient resources")
        assert "records wait" in said
        # Reading and asking still work, so only what is stored can tell.
        await _serves_readers(broker, NatsBroker([server.url]))
        stored = seqs(await read_all(broker))
        while publisher.stats().in_flight:
            # An operator's way to make room; retention does the same by and by.
            before = publisher.stats().in_flight
            await _make_room(broker)
            await until(lambda: _fewer(publisher, before))  # noqa: B023 - awaited here
        assert stored == list(range(1, len(stored) + 1))
        await _stores_again(broker, publisher, COUNT)


async def _make_room(broker: NatsBroker) -> None:
    """Drop all but the newest record of each subject.

    The last of all may be stored, and its ack still be on its way: it has to stay in the log.
    """
    for subject in (BTC, ETH):
        only = {"filter": subject, "keep": 1}
        await broker._current().api("STREAM.PURGE.MARKET_RAW", only)


async def _fewer(publisher: Publisher, than: int) -> bool:
    return publisher.stats().in_flight < than


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB, of which there are 8 MiB in a file `filler`."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small file system needs root")
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        pytest.skip(f"no small file system can be mounted here: {made.stderr.strip()}")
    (tmp_path / "filler").write_bytes(b"x" * 8 * 1024 * 1024)
    yield tmp_path
    subprocess.run(["umount", "-l", str(tmp_path)], check=True)


@pytest.mark.usefixtures("impatient")
async def test_a_full_disk_is_told_with_what_nats_server_needs_and_nothing_is_lost_by_it(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server stops the stream at its first write error and stays so until it is restarted."""
    monkeypatch.setattr(nats_publisher, "ACK_TIMEOUT_S", 0.5)
    async with (
        NatsServer(data_dir=small_disk / "nats", max_file_store="1GB") as server,
        NatsBroker([server.url]) as broker,
    ):
        with capture_logs() as logs:
            publisher = await _fill(broker)
            await _told(broker, "the server answers and stores nothing", "log raw")
        told = [entry for entry in logs if entry["event"] == "log_is_stuck"]
        assert told
        assert "restart" in told[0]["action"]
        (small_disk / "filler").unlink()
        await server.stop()
        await server.start()
        await _stores_again(broker, publisher)


# ---------------------------------------------------------------------- Redis


@pytest.fixture
async def server() -> AsyncIterator[ValkeyServer]:
    async with ValkeyServer() as started:
        yield started


@pytest.fixture
async def redis(server: ValkeyServer) -> AsyncIterator[RedisBroker]:
    async with RedisBroker(server.url) as broker:
        yield broker


@pytest.mark.usefixtures("impatient")
async def test_a_redis_out_of_memory_is_told_and_goes_on_when_there_is_room(
    redis: RedisBroker, server: ValkeyServer
) -> None:
    await redis._calls().call("CONFIG", "SET", "maxmemory", "6mb")
    with capture_logs() as logs:
        publisher = await _fill(redis)
        await _told(redis, "maxmemory")

        async def tried() -> bool:
            return len(_attempts(logs)) >= 5

        await until(tried)
    await _serves_readers(redis, RedisBroker(server.url))
    # It waits longer and longer, though it can look things up in between.
    assert _attempts(logs) == list(range(len(_attempts(logs))))
    await redis._calls().call("CONFIG", "SET", "maxmemory", "0")
    await _stores_again(redis, publisher)


def _attempts(logs: Sequence[MutableMapping[str, Any]]) -> list[int]:
    return [entry["attempt"] for entry in logs if entry["event"] == "publisher_interrupted"]


@pytest.mark.usefixtures("impatient")
async def test_a_redis_out_of_memory_makes_room_by_its_own_retention(redis: RedisBroker) -> None:
    # So short that all but the last few records are older.
    await redis.ensure([LogSpec(LOG, 0.001)])
    await redis._calls().call("CONFIG", "SET", "maxmemory", "6mb")
    publisher = await redis.publisher(max_records=10)
    async with asyncio.TaskGroup() as tasks:
        sending = tasks.create_task(_send_all(publisher))
        await _told(redis, "maxmemory")
        while not sending.done():
            await redis.trim()
    await publisher.flush()
    held = seqs(await read_all(redis))
    assert held == list(range(held[0], COUNT + 1))
    assert publisher.stats().lost == 0


async def _send_all(publisher: Publisher) -> None:
    for n in range(1, COUNT + 1):
        await publisher.send(Record(BTC, BODY, Position(1, n)))


@pytest.mark.usefixtures("impatient")
async def test_a_redis_that_became_a_replica_is_told_and_goes_on_when_it_is_none(
    redis: RedisBroker,
) -> None:
    await redis.ensure([LogSpec(LOG, 3600)])
    await redis._calls().call("REPLICAOF", "127.0.0.1", "1")
    publisher = await redis.publisher()
    for n in range(1, COUNT + 1):
        for subject in (BTC, ETH):
            assert publisher.offer(Record(subject, b"x", Position(1, n))) is not None
    await _told(redis, "read only replica")
    await redis._calls().call("REPLICAOF", "NO", "ONE")
    await _stores_again(redis, publisher)


@pytest.mark.usefixtures("impatient")
async def test_a_redis_that_cannot_save_is_told_and_goes_on_when_it_can(
    redis: RedisBroker, server: ValkeyServer
) -> None:
    call = redis._calls().call
    await redis.ensure([LogSpec(LOG, 3600)])
    await redis.publish(Record(BTC, b"x", Position(1, 1)))
    await call("CONFIG", "SET", "save", "3600 1000000")
    # Where the file should be moved to.
    hindrance = server.data_dir / "dump.rdb"
    hindrance.mkdir()
    (hindrance / "x").touch()
    await call("BGSAVE")
    await until(lambda: _saved(redis, "err"))
    refused: list[Record] = []
    publisher = await redis.publisher(on_refused=lambda record, _error: refused.append(record))
    for n in range(1, COUNT + 1):
        for subject in (BTC, ETH):
            assert publisher.offer(Record(subject, b"x", Position(2, n))) is not None
    await _told(redis, "MISCONF")
    await _serves_readers(redis, RedisBroker(server.url))
    shutil.rmtree(hindrance)
    await call("BGSAVE")
    await until(lambda: _saved(redis, "ok"))
    async with asyncio.timeout(PATIENCE_S):
        await publisher.flush()
    await redis.ping()
    assert (refused, publisher.stats().refused, publisher.stats().lost) == ([], 0, 0)
    assert seqs(await read_all(redis))[-COUNT:] == list(range(1, COUNT + 1))


async def _saved(redis: RedisBroker, status: str) -> bool:
    told = await redis._calls().call("INFO", "persistence")
    return (told["rdb_last_bgsave_status"], told["rdb_bgsave_in_progress"]) == (status, 0)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("right", ["xadd", "eval"])
async def test_a_right_that_is_taken_away_parks_nothing_and_is_waited_for(
    redis: RedisBroker, server: ValkeyServer, right: str
) -> None:
    call = redis._calls().call
    await call("ACL", "SETUSER", "mdf", "on", ">secret", "~*", "&*", "+@all")
    url = server.url.replace("redis://", "redis://mdf:secret@")
    async with RedisBroker(url) as broker:
        await broker.ensure([LogSpec(LOG, 3600)])
        refused: list[Record] = []
        publisher = await broker.publisher(on_refused=lambda record, _: refused.append(record))
        await publisher.durable(await publisher.send(Record(BTC, b"x", Position(1, 1))))
        await call("ACL", "SETUSER", "mdf", f"-{right}")
        for n in range(2, 10):
            ticket = await publisher.send(Record(BTC, b"x", Position(1, n)))
        await _told(broker, "permission")
        await call("ACL", "SETUSER", "mdf", f"+{right}")
        async with asyncio.timeout(PATIENCE_S):
            await publisher.durable(ticket)
        assert (refused, publisher.stats().refused) == ([], 0)
        assert seqs(await read_all(broker)) == list(range(1, 10))


@pytest.mark.parametrize(
    ("policy", "bound", "deletes"),
    [
        ("allkeys-lru", "100mb", True),
        ("allkeys-random", "100mb", True),
        # Nothing is deleted without a bound, and of ours nothing that has no time to live.
        ("allkeys-lru", "0", False),
        ("volatile-ttl", "100mb", False),
        ("noeviction", "100mb", False),
    ],
)
async def test_a_redis_that_deletes_acknowledged_records_is_said_at_start_and_until_it_does_not(
    server: ValkeyServer, policy: str, bound: str, deletes: bool
) -> None:
    async with RedisBroker(server.url) as broker:
        call = broker._calls().call
        await call("CONFIG", "SET", "maxmemory", bound, "maxmemory-policy", policy)
        with capture_logs() as logs:
            async with RedisBroker(server.url) as begun:
                told = begun.hazards()
                await begun.look_for_eviction()
        said = [entry for entry in logs if entry["event"] == "redis_evicts"]
        assert len(said) == len(told) == int(deletes)
        assert all(policy in hazard for hazard in told)
        # Set while it is used, and mended.
        await broker.look_for_eviction()
        assert bool(broker.hazards()) is deletes
        await call("CONFIG", "SET", "maxmemory-policy", "noeviction")
        await broker.look_for_eviction()
        assert broker.hazards() == []


async def test_no_key_of_a_log_expires(redis: RedisBroker) -> None:
    await redis.ensure([LogSpec(LOG, 3600)])
    await redis.publish(Record(BTC, b"x", Position(1, 1)))
    member = await redis.group(LOG, "readers")
    await member.ack(await member.next_batch())
    await redis.ping()
    call = redis._calls().call
    keys = await call("KEYS", "*")
    assert len(keys) >= 4
    assert {await call("TTL", key) for key in keys} == {-1}
