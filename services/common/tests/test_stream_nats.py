"""The broker contract on a real nats-server."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from services.common.stream import (
    Broker,
    LogSpec,
    Position,
    Publisher,
    Record,
)
from services.common.stream.nats.broker import NatsBroker
from services.common.stream.nats.places import Place
from services.common.testing.conformance import (
    BTC,
    ETH,
    LOG,
    Backend,
    answers,
    follow,
    read_all,
    record,
    seqs,
    take,
    until,
)
from services.common.testing.conformance.suite import BrokerConformance
from services.common.testing.lost_end import go_back, keep
from services.common.testing.nats_backend import NatsBackend
from tools.embedded import NatsServer
from tools.embedded.nats import MAX_PAYLOAD


class _Nats(NatsBackend):
    # The headers count as well.
    too_large = MAX_PAYLOAD - 10
    server: NatsServer

    async def kill(self) -> None:
        await self.server.kill()

    async def start(self) -> None:
        await self.server.start()

    async def wipe(self) -> None:
        shutil.rmtree(self.server.data_dir / "jetstream")


class TestNatsBroker(BrokerConformance):
    @pytest.fixture
    def backend(self, nats_server: NatsServer) -> Backend:
        return _Nats(nats_server)

    async def test_an_outage_longer_than_the_duplicate_window_doubles_nothing(
        self, broker: Broker, backend: Backend
    ) -> None:
        await broker.ensure([LogSpec(LOG, 3600, duplicate_window_s=0.1)])
        publisher = await broker.publisher(max_records=4096)
        for last in (1000, 2000, 3000):
            for n in range(last - 999, last + 1):
                await publisher.send(record(n))
            # Some of these are stored by now, and their acks are lost with the connection.
            await until(lambda: _some_acked(publisher, last - 1000))  # noqa: B023 - awaited here
            await backend.kill()
            await asyncio.sleep(0.2)  # the server forgets ids by its clock
            await backend.start()
            await publisher.flush()
        await until(lambda: answers(broker))
        assert seqs(await read_all(broker)) == list(range(1, 3001))

    async def test_seek_takes_as_many_round_trips_as_the_log_has_bits(self, broker: Broker) -> None:
        subjects = [f"market.raw.coinbase.ticker.P{n}-USD" for n in range(8)]
        await broker.publish(*(record(n, s) for n in range(1, 2001) for s in subjects))
        assert isinstance(broker, NatsBroker)
        for wanted in (0, 1, 777, 1999, 2000, 5000):
            before = broker._current().requests
            cursor = await broker.seek(subjects[3], Position(1, wanted))
            assert (
                broker._current().requests - before <= 17
            )  # 16,000 records, the log's state, the newest
            page = await broker.read(subjects[3], cursor, limit=1)
            assert seqs(page.messages, subjects[3]) == ([wanted + 1] if wanted < 2000 else [])

    async def test_a_stream_made_with_other_settings_is_brought_up_to_date(
        self, broker: Broker, nats_server: NatsServer
    ) -> None:
        await broker.publish(record(1))
        async with NatsBroker([nats_server.url]) as other:
            await other.ensure([LogSpec(LOG, 60, duplicate_window_s=30)])
            assert seqs(await read_all(other)) == [1]
            info = (await other._current().api("STREAM.INFO.MARKET_RAW"))["config"]
        assert info["max_age"] == 60 * 10**9
        assert info["duplicate_window"] == 30 * 10**9
        assert info["allow_direct"] is True

    @pytest.mark.parametrize("idle", [False, True])
    async def test_what_the_log_lost_of_what_it_acknowledged_is_written_again_in_order(
        self, broker: Broker, nats_server: NatsServer, idle: bool
    ) -> None:
        store, older = nats_server.data_dir / "jetstream", nats_server.data_dir / "older"
        publisher = await broker.publisher()
        for n in range(1, 101):
            await publisher.send(record(n))
        await publisher.flush()
        await nats_server.stop()
        shutil.copytree(store, older)
        await nats_server.start()
        for n in range(101, 201):
            await publisher.send(record(n))
            await publisher.send(record(n, ETH))
        await publisher.flush()
        await nats_server.kill()
        shutil.rmtree(store)
        older.rename(store)
        await nats_server.start()
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

    async def test_an_ack_of_what_the_log_lost_says_nothing_of_what_stands_there_now(
        self, broker: Broker, nats_server: NatsServer, tmp_path: Path
    ) -> None:
        async def others_store(*records: Record) -> None:
            # A broker of their own, which writes nothing again that is lost.
            async with NatsBroker([nats_server.url]) as other:
                for each in records:
                    await other.publish(each)

        member = await broker.group(LOG, "readers")
        await others_store(record(1))
        await take(member, 1)
        # A server that is told to stop writes down what was acked.
        await nats_server.stop()
        kept = keep(nats_server, tmp_path)
        await nats_server.start()
        await until(lambda: answers(broker))
        await others_store(record(2), record(3))
        lost = await take(member, 2, ack=False)
        await go_back(nats_server, kept)
        await until(lambda: answers(broker))
        await others_store(record(1, ETH), record(2, ETH))
        found = await take(member, 2, ack=False)
        await member.ack(lost)
        await member.aclose()
        again = await take(await broker.group(LOG, "readers"), len(found), ack=False)
        assert [one.position for one in again] == [one.position for one in found]

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
        assert isinstance(broker, NatsBroker)
        await broker._current().api("STREAM.DELETE.MARKET_RAW")
        await publisher.send(record(5))
        await publisher.durable(await publisher.send(record(11)))
        assert seqs(await take(member, 2)) == [5, 11]
        assert await broker.log_epoch(LOG) > epoch
        assert seqs(await read_all(broker)) == [5, 11]
        assert seqs(await follow(live, 1))[-1] == 11

    async def test_nothing_is_stored_after_a_record_that_was_refused_and_before_it(
        self, broker: Broker
    ) -> None:
        """As when the leader of a cluster goes: one record is lost and the next would be taken."""
        assert isinstance(broker, NatsBroker)
        await broker.ensure([LogSpec(LOG, 3600)])
        connection = broker._current()
        config = (await connection.api("STREAM.INFO.MARKET_RAW"))["config"]
        # A refusal that passes, and of one subject only.
        full = {"max_msgs_per_subject": 20, "discard": "new", "discard_new_per_subject": True}
        await connection.api("STREAM.UPDATE.MARKET_RAW", config | full)
        publisher = await broker.publisher()
        for n in range(1, 51):
            await publisher.send(record(n))
            if n == 20:
                await publisher.send(Record(BTC, b"one too many", Position(1, 20, 1)))
            await publisher.send(record(n, ETH))

        async def tried_again() -> bool:
            return publisher.stats().retried > 2 and len(await read_all(broker)) >= 20

        await until(tried_again)
        assert seqs(await read_all(broker)) == list(range(1, 21))
        await connection.api("STREAM.UPDATE.MARKET_RAW", config)
        await publisher.flush()
        assert seqs(await read_all(broker)) == [*range(1, 21), *range(20, 51)]
        assert seqs(await read_all(broker, ETH), ETH) == list(range(1, 51))

    async def test_two_publishers_of_different_records_share_a_log_in_order(
        self, broker: Broker
    ) -> None:
        publishers = [await broker.publisher() for _ in range(2)]
        async with asyncio.TaskGroup() as tasks:
            for publisher, subject in zip(publishers, (BTC, ETH), strict=True):
                tasks.create_task(_send_all(publisher, subject, 2000))
        assert seqs(await read_all(broker)) == list(range(1, 2001))
        assert seqs(await read_all(broker, ETH), ETH) == list(range(1, 2001))


async def _send_all(publisher: Publisher, subject: str, count: int) -> None:
    for n in range(1, count + 1):
        await publisher.send(record(n, subject))
        if n % 100 == 0:
            # So that the two take turns.
            await asyncio.sleep(0)
    await publisher.flush()


async def _some_acked(publisher: Publisher, base: int) -> bool:
    stats = publisher.stats()
    return stats.stored + stats.duplicates > base


@pytest.mark.parametrize(
    "place",
    [(0, "2001-01-01T00:00:00Z"), (0, ""), (1000, "2001-01-01T00:00:00Z")],
    ids=["another-record", "no-record", "behind-the-end"],
)
async def test_a_place_that_the_log_cannot_vouch_for_is_not_gone_on_from(
    nats_server: NatsServer, place: tuple[int, str]
) -> None:
    async with NatsBroker([nats_server.url]) as broker:
        await broker.ensure([LogSpec(LOG, 3600)])
        await broker.publish(*(record(n) for n in range(1, 101)))
        epoch = await broker.log_epoch(LOG)
        # As after a crash that took the log's end: what stood there is another record now.
        kept = Place(epoch, 50 + place[0], place[1])
        await broker._places.keep(broker._current(), LOG, "readers", kept)
        member = await broker.group(LOG, "readers")
        assert seqs(await take(member, 100)) == list(range(1, 101))


async def test_a_place_of_which_the_record_expired_is_gone_on_from(
    nats_server: NatsServer,
) -> None:
    async with NatsBroker([nats_server.url]) as broker:
        await broker.ensure([LogSpec(LOG, 3600)])
        await broker.publish(*(record(n) for n in range(1, 101)))
        await broker._current().api("STREAM.PURGE.MARKET_RAW", {"seq": 61})
        kept = Place(await broker.log_epoch(LOG), 50, "")
        await broker._places.keep(broker._current(), LOG, "readers", kept)
        member = await broker.group(LOG, "readers")
        assert seqs(await take(member, 40)) == list(range(61, 101))


async def test_places_are_kept_again_after_somebody_deleted_them(nats_server: NatsServer) -> None:
    async with NatsBroker([nats_server.url]) as broker:
        await broker.ensure([LogSpec(LOG, 3600)])
        member = await broker.group(LOG, "readers")
        for first in (1, 11):
            await broker.publish(*(record(n) for n in range(first, first + 10)))
            await take(member, 10)
            await until(lambda: _kept_at(broker, first + 9))  # noqa: B023 - awaited here
            await broker.api("STREAM.DELETE.MARKET_GROUPS")


async def _kept_at(broker: NatsBroker, seq: int) -> bool:
    place = await broker._places.find(broker._current(), LOG, "readers")
    return place is not None and place.seq == seq
