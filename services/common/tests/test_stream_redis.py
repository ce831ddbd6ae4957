"""The broker contract on a real Valkey."""

from __future__ import annotations

import asyncio
import shutil

import pytest
from structlog.testing import capture_logs

from services.common.errors import RecordRefused, RecordTooLarge
from services.common.stream import Broker, LiveBatch, Position, Record
from services.common.stream.redis import tail
from services.common.stream.redis.broker import RedisBroker
from services.common.stream.redis.records import Source
from services.common.testing.conformance import (
    BTC,
    ETH,
    LOG,
    PATIENCE_S,
    Backend,
    follow,
    read_all,
    record,
    seqs,
    take,
    until,
)
from services.common.testing.conformance.suite import BrokerConformance
from services.common.testing.redis_backend import RedisBackend
from tools.embedded import ValkeyServer


class _Redis(RedisBackend):
    server: ValkeyServer

    async def kill(self) -> None:
        await self.server.kill()

    async def start(self) -> None:
        await self.server.start()

    async def wipe(self) -> None:
        shutil.rmtree(self.server.data_dir / "appendonlydir")


class TestRedisBroker(BrokerConformance):
    @pytest.fixture
    def backend(self, valkey_server: ValkeyServer) -> Backend:
        return _Redis(valkey_server)

    @pytest.mark.parametrize("idle", [False, True])
    async def test_what_the_log_lost_of_what_it_acknowledged_is_written_again_in_order(
        self, broker: Broker, valkey_server: ValkeyServer, idle: bool
    ) -> None:
        publisher = await broker.publisher()
        for n in range(1, 101):
            await publisher.send(record(n))
        await publisher.flush()
        older = valkey_server.data_dir / "older"
        shutil.copytree(valkey_server.data_dir / "appendonlydir", older)
        for n in range(101, 201):
            await publisher.send(record(n))
            await publisher.send(record(n, ETH))
        await publisher.flush()
        await valkey_server.kill()
        shutil.rmtree(valkey_server.data_dir / "appendonlydir")
        older.rename(valkey_server.data_dir / "appendonlydir")
        await valkey_server.start()
        last = 200
        if not idle:
            last = 201
            await publisher.send(record(201))
            await publisher.send(record(201, ETH))
            await publisher.flush()

        async def whole() -> bool:
            return seqs(await read_all(broker, ETH), ETH) == list(range(101, last + 1))

        await until(whole)
        assert seqs(await read_all(broker)) == list(range(1, last + 1))
        assert publisher.stats().duplicates == 0

    async def test_work_goes_on_when_the_log_is_replaced_while_the_connection_stands(
        self, broker: Broker
    ) -> None:
        publisher = await broker.publisher()
        member = await broker.group(LOG, "readers")
        live = await broker.live(LOG)
        for n in range(1, 11):
            await publisher.send(record(n))
        await publisher.flush()
        await take(member, 10)
        await follow(live, 10)
        epoch = await broker.log_epoch(LOG)
        assert isinstance(broker, RedisBroker)
        await broker._calls().call("FLUSHALL")
        await publisher.send(record(5))
        await publisher.durable(await publisher.send(record(11)))
        assert seqs(await take(member, 2)) == [5, 11]
        assert await broker.log_epoch(LOG) > epoch
        assert seqs(await read_all(broker)) == [5, 11]
        assert seqs(await follow(live, 2)) == [5, 11]

    async def test_a_place_that_was_acked_in_the_log_before_is_none_in_this_one(
        self, backend: Backend, broker: Broker
    ) -> None:
        assert isinstance(broker, RedisBroker)
        await broker.publish(*(record(n) for n in range(1, 101)))
        member = await broker.group(LOG, "readers")
        await take(member, 100)

        async def kept() -> bool:
            return await backend.kept(broker, "readers") == 100

        await until(kept)
        await member.aclose()
        call = broker._calls().call
        for key in await call("KEYS", "market:*"):
            if not key.startswith(b"market:places:"):
                await call("DEL", key)
        await broker.publish(*(record(n) for n in range(1, 11)))
        successor = await broker.group(LOG, "readers")
        assert seqs(await take(successor, 10)) == list(range(1, 11))

    async def test_a_record_that_somebody_went_past_is_told_as_lost_and_not_counted_as_there(
        self, broker: Broker
    ) -> None:
        """The server says of both that their id is equal or smaller."""
        await broker.publish(record(1), record(2), record(4))
        publisher = await broker.publisher()
        for n in (2, 3, 4, 5):
            await publisher.send(record(n))
        await publisher.flush()
        stats = publisher.stats()
        assert (stats.stored, stats.duplicates, stats.lost) == (1, 2, 1)
        assert seqs(await read_all(broker)) == [1, 2, 4, 5]

    async def test_a_record_that_may_have_been_trimmed_is_not_told_as_lost(
        self, broker: Broker
    ) -> None:
        await broker.publish(*(record(n) for n in (1, 2, 4)))
        assert isinstance(broker, RedisBroker)
        names = broker._logs.names
        key = names.stream(Source(BTC, 1))
        await broker._calls().call("XTRIM", key, "MINID", "4")
        await broker._calls().call("HSET", names.trimmed(LOG), key, "2-0")
        publisher = await broker.publisher()
        for n in (1, 2, 3):
            await publisher.send(record(n))
        await publisher.flush()
        stats = publisher.stats()
        assert (stats.stored, stats.duplicates, stats.lost) == (0, 2, 1)

    async def test_many_who_ask_at_once_are_all_answered(self, broker: Broker) -> None:
        """The driver has a bound of connections, and beyond it raises."""
        await broker.publish(record(1))
        async with asyncio.TaskGroup() as tasks:
            asked = [tasks.create_task(broker.last(BTC)) for _ in range(300)]
        assert seqs([found for task in asked if (found := task.result()) is not None]) == [1] * 300
        assert isinstance(broker, RedisBroker)
        clients = await broker._calls().call("INFO", "clients")
        assert clients["connected_clients"] <= 70

    async def test_the_servers_own_limit_of_a_record_is_kept(self, broker: Broker) -> None:
        assert isinstance(broker, RedisBroker)
        await broker._calls().call("CONFIG", "SET", "proto-max-bulk-len", 1024 * 1024)
        large = Record(ETH, b"x" * 1_200_000, Position(1, 2))
        told: list[Record] = []

        def on_refused(refused: Record, error: RecordRefused) -> None:
            assert isinstance(error, RecordTooLarge)
            told.append(refused)

        publisher = await broker.publisher(on_refused=on_refused)
        # It has not asked yet, so it takes this.
        assert publisher.offer(large) == 1
        await publisher.durable(await publisher.send(record(1)))
        assert told == [large]
        with pytest.raises(RecordTooLarge):
            publisher.offer(large)
        await publisher.durable(await publisher.send(record(2)))
        assert seqs(await read_all(broker)) == [1, 2]

    async def test_a_registry_that_was_deleted_or_evicted_is_written_again(
        self, broker: Broker
    ) -> None:
        assert isinstance(broker, RedisBroker)
        publisher = await broker.publisher()
        member = await broker.group(LOG, "readers")
        live = await broker.live(LOG)
        await publisher.send(record(1))
        await publisher.durable(await publisher.send(record(1, ETH)))
        await take(member, 2)
        await follow(live, 2)
        await broker._calls().call("DEL", "market:registry:raw")
        await publisher.send(record(2))
        await publisher.durable(await publisher.send(record(2, ETH)))
        assert await broker.subjects(LOG) == [BTC, ETH]
        assert {2} <= {message.position.seq for message in await take(member, 2)}
        assert {2} <= {message.position.seq for message in await follow(live, 2)}
        await publisher.durable(await publisher.send(record(3)))
        assert 3 in seqs(await take(member, 1))

    async def test_a_key_of_another_type_leaves_out_its_stream_and_no_other(
        self, broker: Broker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Told once by each reader; and read again where the key is put right."""
        monkeypatch.setattr(tail, "_LOOK_S", 0.05)
        assert isinstance(broker, RedisBroker)
        call = broker._calls().call
        sol, key = BTC.replace("BTC", "SOL"), broker._logs.names.stream(Source(ETH, 1))
        member, live = await broker.group(LOG, "readers"), await broker.live(LOG)
        publisher = await broker.publisher(on_refused=lambda record, _error: None)

        async def send(n: int, *subjects: str) -> None:
            for subject in subjects:
                await publisher.send(record(n, subject))
            await publisher.flush()

        async def given(n: int, *subjects: str) -> None:
            wanted = {(subject, n) for subject in subjects}
            for following in (member, live):
                found: set[tuple[str, int]] = set()
                while not wanted <= found:
                    batch = await following.next_batch()
                    messages = batch.messages if isinstance(batch, LiveBatch) else batch
                    found |= {(each.subject, each.position.seq) for each in messages}
                    if following is member:
                        await member.ack(messages)

        with capture_logs() as logs:
            async with asyncio.timeout(PATIENCE_S):
                await send(1, BTC, ETH, sol)
                await given(1, BTC, ETH, sol)
                # While it is read.
                await call("DEL", key)
                await call("SET", key, "somebody else's")
                for n in (2, 3):
                    await send(n, BTC, sol)
                    await given(n, BTC, sol)
                # And where somebody joins.
                other, fresh = await broker.group(LOG, "others"), await broker.live(LOG)
                await send(4, BTC, sol)
                await given(4, BTC, sol)
                assert {4} <= {each.position.seq for each in await take(other, 8)}
                assert seqs(await follow(fresh, 2), sol) == [4]
                assert await broker.subjects(LOG) == sorted((BTC, sol))
                assert await member.lag() == 0
                await call("DEL", key)
                await send(5, ETH)
                await given(5, ETH)
        told = [entry for entry in logs if entry["event"] == "stream_left_out"]
        assert {entry["key"] for entry in told} == {key}
        names = [f"group {name} on raw" for name in ("others", "readers")]
        assert sorted(entry["what"] for entry in told) == [*names, "live on raw", "live on raw"]
