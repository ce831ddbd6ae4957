"""One suite for every broker: a test for each clause of the contract in `stream/broker.py`.

A test module makes a class of `BrokerConformance` and gives it a `backend` fixture.
"""

from __future__ import annotations

import asyncio
import random
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence

import pytest

from services.common.errors import (
    BrokerClosed,
    BrokerUnavailable,
    PositionLost,
    RecordTooLarge,
)
from services.common.stream import (
    Broker,
    GroupSubscription,
    LiveSubscription,
    LogSpec,
    Message,
    Position,
    Publisher,
    Record,
)

LOG = "raw"
BTC = "market.raw.coinbase.ticker.BTC-USD"
ETH = "market.raw.coinbase.ticker.ETH-USD"
SOL = "market.raw.coinbase.trades.SOL-USD"
PATIENCE_S = 30.0


class Backend(ABC):
    """A server under test.

    Attributes:
        too_large: bytes of a record that is refused, or None where the limit is out of reach.
    """

    too_large: int | None = None

    @abstractmethod
    def broker(self) -> Broker:
        """A new broker on this server, not open yet."""

    @abstractmethod
    async def kill(self) -> None:
        """Take the server away as a crash would."""

    @abstractmethod
    async def start(self) -> None:
        """Bring it back with what it had stored."""

    @abstractmethod
    async def wipe(self) -> None:
        """Make the stopped server forget every log."""

    @abstractmethod
    async def expire(self, broker: Broker) -> None:
        """Do what makes records of a log with 1 s of retention go away a little later."""


def record(seq: int, subject: str = BTC, *, epoch: int = 1, sub: int = 0) -> Record:
    return Record(subject, f"{subject}/{epoch}/{seq}/{sub}".encode(), Position(epoch, seq, sub))


def seqs(messages: Sequence[Message], subject: str = BTC) -> list[int]:
    return [message.position.seq for message in messages if message.subject == subject]


async def publish(broker: Broker, records: Sequence[Record]) -> None:
    publisher = await broker.publisher()
    for item in records:
        await publisher.send(item)
    await publisher.flush()
    await publisher.aclose()


async def read_all(
    broker: Broker, subject: str = BTC, cursor: str = "", *, limit: int = 1000
) -> list[Message]:
    found: list[Message] = []
    while True:
        page = await broker.read(subject, cursor, limit=limit)
        found += page.messages
        cursor = page.cursor
        if page.at_head:
            return found


async def take(member: GroupSubscription, count: int, *, ack: bool = True) -> list[Message]:
    """The group's next records until `count` came."""
    found: list[Message] = []
    async with asyncio.timeout(PATIENCE_S):
        while len(found) < count:
            batch = await member.next_batch()
            found += batch
            if ack:
                await member.ack(batch)
    return found


async def follow(live: LiveSubscription, count: int) -> list[Message]:
    found: list[Message] = []
    async with asyncio.timeout(PATIENCE_S):
        while len(found) < count:
            found += (await live.next_batch()).messages
    return found


async def until(condition: Callable[[], Awaitable[bool]], patience_s: float = PATIENCE_S) -> None:
    """Poll until the condition holds; an unavailable broker counts as no."""
    async with asyncio.timeout(patience_s):
        while True:
            try:
                if await condition():
                    return
            except BrokerUnavailable:
                pass
            await asyncio.sleep(0.02)


async def trips(broker: Broker, count: int = 20) -> None:
    """Give the server time by asking it things, in place of a clock."""
    for _ in range(count):
        await broker.log_epoch(LOG)


class BrokerConformance:
    """The clauses B1 to B10."""

    @pytest.fixture
    async def broker(self, backend: Backend):  # type: ignore[no-untyped-def]  # pytest's own shape
        async with backend.broker() as opened:
            await opened.ensure([LogSpec(LOG, 3600)])
            yield opened

    # ------------------------------------------------------------------ B1

    async def test_b1_every_way_of_reading_gives_a_subject_in_the_order_published(
        self, broker: Broker
    ) -> None:
        member = await broker.group(LOG, "readers")
        live = await broker.live(LOG)
        subjects = (BTC, ETH, SOL)
        await publish(broker, [record(n, s) for n in range(1, 401) for s in subjects])
        by_group = await take(member, 1200)
        by_live = await follow(live, 1200)
        for subject in subjects:
            expected = list(range(1, 401))
            assert seqs(by_group, subject) == expected
            assert seqs(by_live, subject) == expected
            assert seqs(await read_all(broker, subject, limit=150), subject) == expected

    async def test_b1_payload_position_and_headers_come_back_as_they_were_sent(
        self, broker: Broker
    ) -> None:
        member = await broker.group(LOG, "readers")
        live = await broker.live(LOG)
        sent = Record(BTC, b"\x00\xff payload", Position(7, 9, 2), {"traceparent": "00-ab-cd-01"})
        await broker.publish(sent)
        [by_group] = await take(member, 1)
        [by_live] = await follow(live, 1)
        [by_read] = await read_all(broker)
        for message in (by_group, by_live, by_read):
            assert message.subject == BTC
            assert message.payload == sent.payload
            assert message.position == sent.position
            assert dict(message.headers) == {"traceparent": "00-ab-cd-01"}

    # ------------------------------------------------------------------ B2

    async def test_b2_durable_returns_only_when_the_record_can_be_read(
        self, broker: Broker
    ) -> None:
        publisher = await broker.publisher()
        for n in range(1, 200):
            ticket = await publisher.send(record(n))
            if n % 50 == 0:
                await publisher.durable(ticket)
                newest = await broker.last(BTC)
                assert newest is not None
                assert newest.position.seq >= n
        await publisher.flush()
        stats = publisher.stats()
        assert (stats.sent, stats.stored, stats.in_flight) == (199, 199, 0)
        assert stats.bytes_in_flight == 0

    async def test_b2_offer_answers_none_while_the_window_is_full(self, broker: Broker) -> None:
        publisher = await broker.publisher(max_records=4)
        tickets = [publisher.offer(record(n)) for n in range(1, 7)]
        assert tickets == [1, 2, 3, 4, None, None]
        assert publisher.stats().in_flight == 4
        await publisher.flush()
        assert publisher.offer(record(5)) == 5
        await publisher.flush()
        assert seqs(await read_all(broker)) == [1, 2, 3, 4, 5]

    async def test_b2_the_window_is_bounded_in_bytes_and_takes_one_larger_record_alone(
        self, broker: Broker
    ) -> None:
        publisher = await broker.publisher(max_bytes=10_000)
        big = Record(BTC, b"x" * 20_000, Position(1, 1))
        assert publisher.offer(big) == 1
        assert publisher.offer(record(2)) is None
        await publisher.flush()
        assert publisher.offer(record(2)) == 2
        await publisher.flush()
        assert seqs(await read_all(broker)) == [1, 2]

    async def test_b2_a_record_of_1_2_megabytes_goes_through_every_way(
        self, broker: Broker
    ) -> None:
        member = await broker.group(LOG, "readers")
        live = await broker.live(LOG)
        body = random.Random(1).randbytes(1_200_000)
        await broker.publish(Record(BTC, body, Position(1, 1)))
        assert [m.payload for m in await take(member, 1)] == [body]
        assert [m.payload for m in await follow(live, 1)] == [body]
        assert [m.payload for m in await read_all(broker)] == [body]

    async def test_b2_a_record_the_server_would_refuse_is_refused_before_it_is_taken(
        self, broker: Broker, backend: Backend
    ) -> None:
        publisher = await broker.publisher()
        if backend.too_large is not None:
            with pytest.raises(RecordTooLarge) as caught:
                await publisher.send(Record(BTC, b"x" * backend.too_large, Position(1, 1)))
            assert caught.value.size >= backend.too_large > 0
        assert publisher.stats().sent == 0
        await publisher.durable(await publisher.send(record(2)))
        assert seqs(await read_all(broker)) == [2]

    # ------------------------------------------------------------------ B3

    async def test_b3_a_record_sent_again_is_acknowledged_and_stored_once(
        self, broker: Broker
    ) -> None:
        await publish(broker, [record(n) for n in range(1, 101)])
        publisher = await broker.publisher()
        for n in range(51, 151):
            await publisher.send(record(n))
        await publisher.flush()
        assert publisher.stats().duplicates == 50
        assert publisher.stats().stored == 50
        assert seqs(await read_all(broker)) == list(range(1, 151))

    async def test_b3_two_publishers_of_the_same_records_make_one_log(
        self, backend: Backend, broker: Broker
    ) -> None:
        live = await broker.live(LOG)
        records = [record(n, s) for n in range(1, 301) for s in (BTC, ETH)]
        async with backend.broker() as other:
            await other.ensure([LogSpec(LOG, 3600)])
            async with asyncio.TaskGroup() as group:
                group.create_task(publish(broker, records))
                group.create_task(publish(other, records))
        for subject in (BTC, ETH):
            assert seqs(await read_all(broker, subject), subject) == list(range(1, 301))
        followed = await follow(live, 600)
        for subject in (BTC, ETH):
            assert seqs(followed, subject) == list(range(1, 301))

    # ------------------------------------------------------------------ B4

    async def test_b4_a_new_group_begins_at_the_oldest_record_and_groups_are_independent(
        self, broker: Broker
    ) -> None:
        await publish(broker, [record(n) for n in range(1, 51)])
        first = await broker.group(LOG, "first")
        assert seqs(await take(first, 50)) == list(range(1, 51))
        second = await broker.group(LOG, "second")
        assert seqs(await take(second, 50)) == list(range(1, 51))

    async def test_b4_what_a_closed_member_did_not_ack_is_delivered_to_the_next_in_order(
        self, backend: Backend, broker: Broker
    ) -> None:
        await publish(broker, [record(n) for n in range(1, 101)])
        member = await broker.group(LOG, "readers")
        taken = await take(member, 100, ack=False)
        await member.ack(taken[:40])
        await until(lambda: _lag_is(member, 60))
        await member.aclose()
        async with backend.broker() as other:
            await other.ensure([LogSpec(LOG, 3600)])
            successor = await other.group(LOG, "readers")
            again = await take(successor, 60)
            assert sorted(set(seqs(again)) | set(range(1, 41))) == list(range(1, 101))
            assert seqs(again) == sorted(seqs(again))

    async def test_b4_what_is_acked_is_not_delivered_again(self, broker: Broker) -> None:
        await publish(broker, [record(n) for n in range(1, 31)])
        member = await broker.group(LOG, "readers")
        await take(member, 30)
        await until(lambda: _lag_is(member, 0))
        await member.aclose()
        successor = await broker.group(LOG, "readers")
        await publish(broker, [record(31)])
        assert seqs(await take(successor, 1)) == [31]

    async def test_b4_what_is_not_acked_in_time_is_delivered_again(self, broker: Broker) -> None:
        await publish(broker, [record(1), record(2)])
        member = await broker.group(LOG, "readers", ack_wait_s=1)
        first = await take(member, 2, ack=False)
        assert seqs(first) == [1, 2]
        await member.ack(first[:1])
        again = await take(member, 1)
        assert seqs(again) == [2]

    async def test_b4_lag_counts_what_is_not_acked(self, broker: Broker) -> None:
        member = await broker.group(LOG, "readers")
        assert await member.lag() == 0
        await publish(broker, [record(n, s) for n in range(1, 11) for s in (BTC, ETH)])
        await until(lambda: _lag_is(member, 20))
        taken = await take(member, 20, ack=False)
        await until(lambda: _lag_is(member, 20))
        await member.ack(taken[:5])
        await until(lambda: _lag_is(member, 15))

    # ------------------------------------------------------------------ B5

    async def test_b5_reading_goes_on_after_a_cursor_from_any_source(self, broker: Broker) -> None:
        member = await broker.group(LOG, "readers")
        live = await broker.live(LOG)
        records = [record(n, s) for n in range(1, 101) for s in (BTC, ETH)]
        await publish(broker, records)
        by_group = await take(member, 200)
        by_live = await follow(live, 200)
        by_read = await read_all(broker)
        for messages in (by_group, by_live, by_read):
            cursor = next(m.cursor for m in messages if m.subject == BTC and m.position.seq == 60)
            assert seqs(await read_all(broker, cursor=cursor)) == list(range(61, 101))

    async def test_b5_the_cursor_at_the_head_gives_what_is_published_later(
        self, broker: Broker
    ) -> None:
        page = await broker.read(BTC)
        assert (list(page.messages), page.at_head) == ([], True)
        await publish(broker, [record(1, ETH), record(1), record(2)])
        page = await broker.read(BTC, page.cursor, limit=1)
        assert (seqs(page.messages), page.at_head) == ([1], False)
        page = await broker.read(BTC, page.cursor)
        assert (seqs(page.messages), page.at_head) == ([2], True)
        await publish(broker, [record(3)])
        assert seqs((await broker.read(BTC, page.cursor)).messages) == [3]

    @pytest.mark.parametrize("cursor", ["nonsense", "1@5", "@", "12", "1@p1.1.1", "1@1.5-0"])
    async def test_b5_a_cursor_that_is_not_of_this_log_is_refused(
        self, broker: Broker, cursor: str
    ) -> None:
        await publish(broker, [record(1)])
        with pytest.raises(PositionLost):
            await broker.read(BTC, cursor)

    async def test_b5_a_cursor_before_what_was_dropped_raises_and_never_skips(
        self, backend: Backend, broker: Broker
    ) -> None:
        await broker.ensure([LogSpec(LOG, 1.0)])
        await publish(broker, [record(1)])
        page = await broker.read(BTC)
        old = page.messages[0].cursor
        await publish(broker, [record(n) for n in range(2, 20)])

        async def dropped() -> bool:
            await backend.expire(broker)
            await publish(broker, [record(1000 + len(fresh))])
            fresh.append(1)
            oldest = await broker.first(BTC)
            return oldest is not None and oldest.position.seq > 2

        fresh: list[int] = []
        await until(dropped)
        with pytest.raises(PositionLost):
            await broker.read(BTC, old)
        # Where the log is still held, reading goes on.
        oldest = await broker.first(BTC)
        assert oldest is not None
        page = await broker.read(BTC, await broker.seek(BTC, Position(0, 0)))
        assert page.messages[0].position >= oldest.position

    # ------------------------------------------------------------------ B6

    async def test_b6_a_group_holds_at_most_max_pending_unacked_records(
        self, broker: Broker
    ) -> None:
        await publish(broker, [record(n) for n in range(1, 31)])
        member = await broker.group(LOG, "readers", max_pending=10)
        held = await take(member, 10, ack=False)
        assert len(held) == 10
        waiting = asyncio.ensure_future(member.next_batch())
        await trips(broker)
        assert not waiting.done()
        await member.ack(held)
        async with asyncio.timeout(PATIENCE_S):
            more = list(await waiting)
        assert seqs(more)[0] == 11
        await member.ack(more)
        rest = await take(member, 20 - len(more))
        assert seqs(held + more + rest) == list(range(1, 31))

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
        waiting = [
            asyncio.ensure_future(member.next_batch()),
            asyncio.ensure_future(live.next_batch()),
        ]
        await trips(broker, 3)
        await broker.aclose()
        await broker.aclose()
        async with asyncio.timeout(PATIENCE_S):
            ended = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(error) for error in ended] == [BrokerClosed, BrokerClosed]
        for part in (publisher, member, live):
            await part.aclose()
            await part.aclose()
        with pytest.raises(BrokerClosed):
            publisher.offer(record(1))
        with pytest.raises(BrokerClosed):
            await publisher.send(record(1))
        with pytest.raises(BrokerClosed):
            await member.next_batch()
        with pytest.raises(BrokerClosed):
            await live.next_batch()
        with pytest.raises(BrokerClosed):
            await broker.read(BTC)
        with pytest.raises(BrokerClosed):
            await broker.publisher()

    async def test_b7_closing_a_publisher_ends_who_waits_for_it(
        self, backend: Backend, broker: Broker
    ) -> None:
        publisher = await broker.publisher(max_records=1)
        await backend.kill()
        ticket = publisher.offer(record(1))
        assert ticket == 1
        durable = asyncio.ensure_future(publisher.durable(ticket))
        sending = asyncio.ensure_future(publisher.send(record(2)))
        await asyncio.sleep(0)
        await publisher.aclose()
        ended = await asyncio.gather(durable, sending, return_exceptions=True)
        assert [type(error) for error in ended] == [BrokerClosed, BrokerClosed]
        await backend.start()

    # ------------------------------------------------------------------ B8

    async def test_b8_seek_finds_the_first_record_above_any_position(self, broker: Broker) -> None:
        chance = random.Random(8)
        held: dict[str, list[Position]] = {}
        for subject in (BTC, ETH, SOL):
            drawn = {
                Position(chance.choice((3, 4)), chance.randrange(1, 500), chance.choice((0, 0, 1)))
                for _ in range(200)
            }
            held[subject] = sorted(drawn)
        records = [Record(s, b"x", p) for s, positions in held.items() for p in positions]
        # Interleaved at random, each subject in order.
        order = [r.subject for r in records]
        chance.shuffle(order)
        queues = {s: iter([Record(s, b"x", p) for p in held[s]]) for s in held}
        await publish(broker, [next(queues[s]) for s in order])
        for subject, positions in held.items():
            probes = [Position(0, 0), Position(9, 1), *chance.sample(positions, 15)]
            probes += [
                Position(chance.choice((2, 3, 4, 5)), chance.randrange(0, 510)) for _ in range(10)
            ]
            for probe in probes:
                cursor = await broker.seek(subject, probe)
                page = await broker.read(subject, cursor, limit=1)
                expected = next((p for p in positions if p > probe), None)
                assert [m.position for m in page.messages] == ([expected] if expected else [])

    async def test_b8_seek_in_an_empty_subject_gives_what_comes_later(self, broker: Broker) -> None:
        cursor = await broker.seek(BTC, Position(0, 0))
        await publish(broker, [record(1, ETH), record(1)])
        assert seqs(await read_all(broker, cursor=cursor)) == [1]

    async def test_first_last_and_subjects_say_what_is_held(self, broker: Broker) -> None:
        assert await broker.first(BTC) is None
        assert await broker.last(BTC) is None
        assert list(await broker.subjects(LOG)) == []
        await publish(broker, [record(4, ETH), record(5), record(6), record(1, epoch=2)])
        first, last = await broker.first(BTC), await broker.last(BTC)
        assert first is not None
        assert last is not None
        assert first.position == Position(1, 5)
        assert last.position == Position(2, 1)
        assert list(await broker.subjects(LOG)) == [BTC, ETH]

    # ------------------------------------------------------------------ B9

    async def test_b9_the_log_keeps_its_epoch_and_a_new_log_has_a_greater_one(
        self, backend: Backend, broker: Broker
    ) -> None:
        epoch = await broker.log_epoch(LOG)
        await broker.ensure([LogSpec(LOG, 7200)])
        assert await broker.log_epoch(LOG) == epoch
        await publish(broker, [record(1)])
        [message] = await read_all(broker)
        await backend.kill()
        await backend.start()
        await until(lambda: _epoch_is(broker, epoch))
        await backend.kill()
        await backend.wipe()
        await backend.start()
        await until(lambda: _epoch_is_not(broker, epoch))
        assert await broker.log_epoch(LOG) > epoch
        with pytest.raises(PositionLost):
            await broker.read(BTC, message.cursor)

    # ------------------------------------------------------------------ B10

    async def test_b10_a_publisher_survives_a_killed_server_in_order_and_without_doubles(
        self, backend: Backend, broker: Broker
    ) -> None:
        publisher = await broker.publisher(max_records=256)
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(_send(publisher, 1, 3000))
            for point in (700, 1700):
                await _sent(publisher, point)
                await backend.kill()
                await backend.start()
            await sending
        async with asyncio.timeout(PATIENCE_S):
            await publisher.flush()
        await until(lambda: _answers(broker))
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
                await backend.kill()
                await backend.start()
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
            await backend.kill()
            await backend.start()
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
        assert bool(told) or not broker.capabilities.live_may_miss

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
        await backend.kill()
        await backend.wipe()
        await backend.start()
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
        with pytest.raises(BrokerUnavailable):
            await broker.ping()
        with pytest.raises(BrokerUnavailable):
            await broker.read(BTC)
        with pytest.raises(BrokerUnavailable):
            await broker.log_epoch(LOG)
        other = backend.broker()
        opening = asyncio.ensure_future(other.open())
        await asyncio.sleep(0)
        await backend.start()
        async with asyncio.timeout(PATIENCE_S):
            await opening
        await other.ping()
        await other.aclose()
        await until(lambda: _answers(broker))

    async def test_a_log_that_nobody_made_is_said_to_be_missing(self, broker: Broker) -> None:
        with pytest.raises(BrokerUnavailable):
            await broker.log_epoch("tick.0")
        with pytest.raises(BrokerUnavailable):
            await broker.group("tick.0", "readers")


async def _lag_is(member: GroupSubscription, count: int) -> bool:
    return await member.lag() == count


async def _epoch_is(broker: Broker, epoch: int) -> bool:
    return await broker.log_epoch(LOG) == epoch


async def _epoch_is_not(broker: Broker, epoch: int) -> bool:
    return await broker.log_epoch(LOG) != epoch


async def _answers(broker: Broker) -> bool:
    await broker.ping()
    return True


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
