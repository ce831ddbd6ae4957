"""Clauses about what a publisher is promised."""

from __future__ import annotations

import asyncio
import random

import pytest

from services.common.errors import BrokerFailed, RecordRefused, RecordTooLarge
from services.common.stream import Broker, LogSpec, Position, Record
from services.common.testing.conformance import (
    BTC,
    ETH,
    LOG,
    PATIENCE_S,
    SOL,
    Backend,
    follow,
    read_all,
    record,
    seqs,
    take,
)


class PublishingClauses:
    """Order, durability, duplicates."""

    # ------------------------------------------------------------------ B1

    async def test_b1_every_way_of_reading_gives_a_subject_in_the_order_published(
        self, broker: Broker
    ) -> None:
        member = await broker.group(LOG, "readers")
        live = await broker.live(LOG)
        subjects = (BTC, ETH, SOL)
        await broker.publish(*(record(n, s) for n in range(1, 401) for s in subjects))
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

    @pytest.mark.parametrize(
        "bad",
        [
            Record(BTC, b"", Position(1, 2**64)),
            Record(BTC, b"", Position(1, 2**63)),
            Record(BTC, b"", Position(1, -1)),
            Record(BTC, b"", Position(1, 0)),
            Record(BTC, b"", Position(1, 2, 2**64)),
            Record(BTC, b"", Position(1, 2, -1)),
            Record(BTC, b"", Position(2**64, 2)),
            Record(BTC, b"", Position(-1, 2)),
            Record("market.raw.coinbase.ticker.BTC USD", b"", Position(1, 2)),
            Record("market.raw.coinbase.ticker.>", b"", Position(1, 2)),
            Record("market.raw.coinbase.ticker.", b"", Position(1, 2)),
            Record("market.raw.coinbase.ticker.B\r\nPUB", b"", Position(1, 2)),
            Record("market.raw.coinbase", b"", Position(1, 2)),
            Record("elsewhere", b"", Position(1, 2)),
            Record(BTC, b"", Position(1, 2), {"a b": "c"}),
            Record(BTC, b"", Position(1, 2), {"a": "\ud800"}),
        ],
        ids=repr,
    )
    async def test_b2_what_can_never_be_stored_is_not_taken_and_the_rest_goes_on(
        self, broker: Broker, bad: Record
    ) -> None:
        publisher = await broker.publisher()
        await publisher.send(record(1))
        with pytest.raises(RecordRefused) as refused:
            publisher.offer(bad)
        assert refused.value.reason
        with pytest.raises(RecordRefused):
            await publisher.send(bad)
        await publisher.send(record(2))
        await publisher.send(record(2, ETH))
        async with asyncio.timeout(PATIENCE_S):
            await publisher.flush()
        assert publisher.stats().sent == 3
        assert seqs(await read_all(broker)) == [1, 2]
        assert seqs(await read_all(broker, ETH), ETH) == [2]

    async def test_b2_what_the_server_refuses_for_good_is_told_and_all_others_go_on(
        self, broker: Broker, backend: Backend
    ) -> None:
        told: list[tuple[Position, str]] = []

        def on_refused(refused: Record, error: RecordRefused) -> None:
            told.append((refused.position, error.reason))

        publisher = await broker.publisher(on_refused=on_refused)
        await publisher.durable(await publisher.send(record(1)))
        await backend.refuse(broker)
        for n in range(2, 11):
            await publisher.send(record(n))
            if n in (5, 6):
                await publisher.send(Record(ETH, b"x" * 3000, Position(1, n)))
        tail = await publisher.send(Record(ETH, b"x" * 3000, Position(1, 11)))
        async with asyncio.timeout(PATIENCE_S):
            await publisher.durable(tail)
        assert [position.seq for position, _ in told] == [5, 6, 11]
        assert all(reason for _, reason in told)
        stats = publisher.stats()
        assert (stats.sent, stats.refused, stats.in_flight, stats.lost) == (13, 3, 0, 0)
        assert seqs(await read_all(broker)) == list(range(1, 11))
        await publisher.durable(await publisher.send(record(12)))
        assert stats.refused == 3

    async def test_b2_what_stands_in_for_a_refused_record_is_stored_in_its_place(
        self, broker: Broker, backend: Backend
    ) -> None:
        if not backend.replaces:
            pytest.skip("nothing can be stored there")

        def on_refused(refused: Record, _error: RecordRefused) -> Record:
            return Record(refused.subject, b"instead", refused.position)

        publisher = await broker.publisher(on_refused=on_refused)
        await publisher.durable(await publisher.send(record(1, ETH)))
        await backend.refuse(broker)
        await publisher.send(record(2, ETH))
        await publisher.send(Record(ETH, b"x" * 3000, Position(1, 3)))
        await publisher.send(record(4, ETH))
        async with asyncio.timeout(PATIENCE_S):
            await publisher.flush()
        found = await read_all(broker, ETH)
        assert seqs(found, ETH) == [1, 2, 3, 4]
        assert [message.payload for message in found][2] == b"instead"
        assert publisher.stats().refused == 1

    async def test_b2_a_refusal_that_nobody_is_told_of_breaks_the_publisher(
        self, broker: Broker, backend: Backend
    ) -> None:
        publisher = await broker.publisher()
        await publisher.durable(await publisher.send(record(1)))
        await backend.refuse(broker)
        ticket = await publisher.send(Record(ETH, b"x" * 3000, Position(1, 2)))
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(BrokerFailed) as failed:
                await publisher.durable(ticket)
        assert isinstance(failed.value.__cause__, RecordRefused)

    # ------------------------------------------------------------------ B3

    async def test_b3_a_record_sent_again_is_acknowledged_and_stored_once(
        self, broker: Broker
    ) -> None:
        await broker.publish(*(record(n) for n in range(1, 101)))
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
                group.create_task(broker.publish(*records))
                group.create_task(other.publish(*records))
        for subject in (BTC, ETH):
            assert seqs(await read_all(broker, subject), subject) == list(range(1, 301))
        followed = await follow(live, 600)
        for subject in (BTC, ETH):
            assert seqs(followed, subject) == list(range(1, 301))
