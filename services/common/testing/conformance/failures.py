"""Clauses about ends, wanted and unwanted."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from services.common.errors import BrokerClosed, BrokerFailed, BrokerUnavailable
from services.common.stream import Broker, LogSpec, Message, Position, Publisher
from services.common.testing.broken import Unforeseen
from services.common.testing.conformance import (
    BTC,
    ETH,
    LOG,
    PATIENCE_S,
    Backend,
    answers,
    ended_by,
    follow,
    read_all,
    record,
    seqs,
    take,
    trips,
    until,
)


class FailureClauses:
    """Closing, and a server that goes away."""

    # ------------------------------------------------------------------ B7

    async def test_b7_everything_raises_after_closing_and_closing_twice_is_fine(
        self, backend: Backend
    ) -> None:
        broker = backend.broker()
        await broker.open()
        await broker.ensure([LogSpec(LOG, 3600)])
        publisher = await broker.publisher()
        member = await broker.group(LOG, "readers")
        live = await broker.live(LOG)
        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as waiting:
            waiting.create_task(ended_by(BrokerClosed, member.next_batch()))
            waiting.create_task(ended_by(BrokerClosed, live.next_batch()))
            await trips(broker, 3)
            await broker.aclose()
            await broker.aclose()
        for part in (publisher, member, live):
            await part.aclose()
            await part.aclose()
        with pytest.raises(BrokerClosed):
            publisher.offer(record(1))
        await ended_by(BrokerClosed, publisher.send(record(1)))
        await ended_by(BrokerClosed, member.next_batch())
        await ended_by(BrokerClosed, live.next_batch())
        await ended_by(BrokerClosed, broker.read(BTC))
        await ended_by(BrokerClosed, broker.publisher())

    async def test_b7_closing_a_publisher_ends_who_waits_for_it(
        self, backend: Backend, broker: Broker
    ) -> None:
        publisher = await broker.publisher(max_records=1)
        await backend.kill()
        ticket = publisher.offer(record(1))
        assert ticket == 1
        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as waiting:
            waiting.create_task(ended_by(BrokerClosed, publisher.durable(ticket)))
            waiting.create_task(ended_by(BrokerClosed, publisher.send(record(2))))
            await asyncio.sleep(0)
            await publisher.aclose()
        await backend.start()

    async def test_b7_a_publisher_that_broke_tells_all_who_wait_and_the_broker_goes_on(
        self, backend: Backend, broker: Broker
    ) -> None:
        publisher = await broker.publisher(max_records=1)
        await backend.break_part(publisher)
        ticket = publisher.offer(record(1))
        assert ticket == 1
        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as waiting:
            ended = [
                waiting.create_task(ended_by(BrokerFailed, publisher.durable(ticket))),
                waiting.create_task(ended_by(BrokerFailed, publisher.send(record(2)))),
            ]
        for waiter in ended:
            assert isinstance(waiter.result().__cause__, Unforeseen)
            assert "nobody thought of this" in str(waiter.result())
        with pytest.raises(BrokerFailed):
            publisher.offer(record(2))
        await ended_by(BrokerFailed, publisher.durable(ticket))
        await publisher.aclose()
        with pytest.raises(BrokerClosed):
            publisher.offer(record(2))
        await broker.publish(record(3))
        assert seqs(await read_all(broker))[-1] == 3

    async def test_b7_a_group_that_broke_says_so_and_the_next_member_gets_what_it_held(
        self, backend: Backend, broker: Broker
    ) -> None:
        member = await broker.group(LOG, "readers")
        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as waiting:
            failed = waiting.create_task(ended_by(BrokerFailed, member.next_batch()))
            await trips(broker, 3)
            await backend.break_part(member)
        assert isinstance(failed.result().__cause__, Unforeseen)
        await ended_by(BrokerFailed, member.next_batch())
        await ended_by(BrokerFailed, member.lag())
        await broker.publish(*(record(n) for n in range(1, 11)))
        await member.aclose()
        await ended_by(BrokerClosed, member.next_batch())
        successor = await broker.group(LOG, "readers")
        assert seqs(await take(successor, 10)) == list(range(1, 11))

    async def test_b7_a_live_reader_that_broke_says_so_and_another_can_be_opened(
        self, backend: Backend, broker: Broker
    ) -> None:
        live = await broker.live(LOG)
        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as waiting:
            failed = waiting.create_task(ended_by(BrokerFailed, live.next_batch()))
            await trips(broker, 3)
            await backend.break_part(live)
        assert isinstance(failed.result().__cause__, Unforeseen)
        await live.aclose()
        await ended_by(BrokerClosed, live.next_batch())
        another = await broker.live(LOG)
        await broker.publish(record(1))
        assert seqs(await follow(another, 1)) == [1]

    async def test_b7_what_others_put_into_a_log_ends_nobody(
        self, backend: Backend, broker: Broker
    ) -> None:
        member = await broker.group(LOG, "readers")
        live = await broker.live(LOG)
        publisher = await broker.publisher()
        await publisher.durable(await publisher.send(record(1)))
        foreign = await backend.add_foreign(broker)
        newest = await broker.last(BTC)
        assert newest is not None
        assert newest.position.seq == 1
        await publisher.send(record(2))
        await publisher.flush()
        taken = await take(member, 2 + foreign)
        assert _ours(taken) == [1, 2]
        followed: list[Message] = []
        async with asyncio.timeout(PATIENCE_S):
            while _ours(followed) != [1, 2]:
                followed += (await live.next_batch()).messages
        for message in (*taken, *followed):
            assert message.position >= (0, 0)
            assert isinstance(message.cursor, str)
            assert isinstance(message.headers, Mapping)
        assert _ours(await read_all(broker)) == [1, 2]
        await broker.subjects(LOG)
        # A broker that comes later meets all of it at once.
        async with backend.broker() as later:
            await later.ensure([LogSpec(LOG, 3600)])
            fresh = await later.group(LOG, "others")
            assert _ours(await take(fresh, 2 + foreign)) == [1, 2]

    # ------------------------------------------------------------------ B10

    async def test_b10_a_publisher_survives_a_killed_server_in_order_and_without_doubles(
        self, backend: Backend, broker: Broker
    ) -> None:
        publisher = await broker.publisher(max_records=256)
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(_send(publisher, 1, 3000))
            for point in (700, 1700):
                await _sent(publisher, point)
                await backend.restart()
            await sending
        async with asyncio.timeout(PATIENCE_S):
            await publisher.flush()
        await until(lambda: answers(broker))
        for subject in (BTC, ETH):
            assert seqs(await read_all(broker, subject), subject) == list(range(1, 3001))

    async def test_b10_a_group_survives_a_killed_server_without_loss_and_in_order(
        self, backend: Backend, broker: Broker
    ) -> None:
        publisher = await broker.publisher(max_records=256)
        member = await broker.group(LOG, "readers", max_pending=512)
        seen: dict[str, list[int]] = {BTC: [], ETH: []}

        async def consume() -> None:
            while any(not s or s[-1] < 2000 for s in seen.values()):
                batch = await member.next_batch()
                for message in batch:
                    seen[message.subject].append(message.position.seq)
                await member.ack(batch)

        async with asyncio.timeout(2 * PATIENCE_S), asyncio.TaskGroup() as group:
            group.create_task(_send(publisher, 1, 2000))
            group.create_task(consume())
            for point in (500, 1300):
                await _sent(publisher, point)
                await backend.restart()
        for delivered in seen.values():
            newest = 0
            for seq in delivered:
                # A repetition may come, a record that follows a hole never.
                assert seq <= newest + 1
                newest = max(newest, seq)
            assert newest == 2000

    async def test_b10_a_live_reader_that_refills_by_read_has_everything_once(
        self, backend: Backend, broker: Broker
    ) -> None:
        publisher = await broker.publisher(max_records=256)
        live = await broker.live(LOG)
        seen: list[int] = []
        told: list[int] = []

        async def follow_btc() -> None:
            while not seen or seen[-1] < 2000:
                batch = await live.next_batch()
                if batch.interrupted:
                    told.append(len(seen))
                for seq in seqs(batch.messages):
                    assert not seen or seq > seen[-1]
                    if seq > (seen[-1] if seen else 0) + 1:
                        assert told
                        page = await _read_when_up(broker, Position(1, seen[-1] if seen else 0))
                        seen.extend(n for n in seqs(page) if (not seen or n > seen[-1]) and n < seq)
                    seen.append(seq)

        async with asyncio.timeout(2 * PATIENCE_S), asyncio.TaskGroup() as group:
            following = group.create_task(follow_btc())
            await _send(publisher, 1, 900)
            await publisher.flush()
            await backend.restart()
            await _send(publisher, 901, 1990)
            await publisher.flush()
            extra = 1991
            while not following.done():
                # The subscription may come back later than the publisher.
                await _send(publisher, extra, extra)
                await publisher.flush()
                extra += 1
                if extra > 2000:
                    await asyncio.sleep(0.02)
        assert seen == list(range(1, seen[-1] + 1))
        assert bool(told) or not broker.live_may_miss

    async def test_b10_work_goes_on_after_the_server_lost_its_logs(
        self, backend: Backend, broker: Broker
    ) -> None:
        publisher = await broker.publisher()
        member = await broker.group(LOG, "readers")
        live = await broker.live(LOG)
        await _send(publisher, 1, 10)
        await publisher.flush()
        await take(member, 20)
        await follow(live, 20)
        await backend.restart(wiped=True)
        async with asyncio.timeout(PATIENCE_S):
            assert (await live.next_batch()).interrupted
            # Positions that the lost log had held are free again in the new one.
            await publisher.send(record(5))
            await publisher.durable(await publisher.send(record(11)))
            assert seqs(await take(member, 2)) == [5, 11]
            assert seqs(await follow(live, 2)) == [5, 11]

    async def test_b10_an_absent_server_is_said_and_does_not_stop_opening(
        self, backend: Backend, broker: Broker
    ) -> None:
        await broker.ping()
        await backend.kill()
        await ended_by(BrokerUnavailable, broker.ping())
        await ended_by(BrokerUnavailable, broker.read(BTC))
        await ended_by(BrokerUnavailable, broker.log_epoch(LOG))
        other = backend.broker()
        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as opening:
            opening.create_task(other.open())
            await asyncio.sleep(0)
            await backend.start()
        await other.ping()
        await other.aclose()
        await until(lambda: answers(broker))

    async def test_a_log_that_nobody_made_is_said_to_be_missing(self, broker: Broker) -> None:
        await ended_by(BrokerUnavailable, broker.log_epoch("tick.0"))
        await ended_by(BrokerUnavailable, broker.group("tick.0", "readers"))


def _ours(messages: Sequence[Message]) -> list[int]:
    return seqs([message for message in messages if message.payload.startswith(BTC.encode())])


async def _send(publisher: Publisher, first: int, last: int) -> None:
    for n in range(first, last + 1):
        await publisher.send(record(n, BTC))
        await publisher.send(record(n, ETH))


async def _sent(publisher: Publisher, count: int) -> None:
    async def enough() -> bool:
        return publisher.stats().sent >= count

    await until(enough)


async def _read_when_up(broker: Broker, after: Position) -> list[Message]:
    found: list[Message] = []

    async def read() -> bool:
        found[:] = await read_all(broker, cursor=await broker.seek(BTC, after))
        return True

    await until(read)
    return found
