"""Clauses about groups that share the work on a log."""

from __future__ import annotations

import asyncio

import pytest

from services.common.stream import Broker, LogSpec
from services.common.testing.conformance import (
    BTC,
    ETH,
    LOG,
    PATIENCE_S,
    Backend,
    record,
    seqs,
    take,
    trips,
    until_is,
)


class GroupClauses:
    """Acks, redelivery, what may be pending."""

    # ------------------------------------------------------------------ B4

    async def test_b4_a_new_group_begins_at_the_oldest_record_and_groups_are_independent(
        self, broker: Broker
    ) -> None:
        await broker.publish(*(record(n) for n in range(1, 51)))
        first = await broker.group(LOG, "first")
        assert seqs(await take(first, 50)) == list(range(1, 51))
        second = await broker.group(LOG, "second")
        assert seqs(await take(second, 50)) == list(range(1, 51))

    async def test_b4_what_a_closed_member_did_not_ack_is_delivered_to_the_next_in_order(
        self, backend: Backend, broker: Broker
    ) -> None:
        await broker.publish(*(record(n) for n in range(1, 101)))
        member = await broker.group(LOG, "readers")
        taken = await take(member, 100, ack=False)
        await member.ack(taken[:40])
        await until_is(member.lag, 60)
        await member.aclose()
        async with backend.broker() as other:
            await other.ensure([LogSpec(LOG, 3600)])
            successor = await other.group(LOG, "readers")
            again = await take(successor, 60)
            assert sorted(set(seqs(again)) | set(range(1, 41))) == list(range(1, 101))
            assert seqs(again) == sorted(seqs(again))

    async def test_b4_what_is_acked_is_not_delivered_again(self, broker: Broker) -> None:
        await broker.publish(*(record(n) for n in range(1, 31)))
        member = await broker.group(LOG, "readers")
        await take(member, 30)
        await until_is(member.lag, 0)
        await member.aclose()
        successor = await broker.group(LOG, "readers")
        await broker.publish(record(31))
        assert seqs(await take(successor, 1)) == [31]

    async def test_b4_what_is_not_acked_in_time_is_delivered_again(self, broker: Broker) -> None:
        await broker.publish(record(1), record(2))
        member = await broker.group(LOG, "readers", ack_wait_s=1)
        first = await take(member, 2, ack=False)
        assert seqs(first) == [1, 2]
        await member.ack(first[:1])
        again = await take(member, 1)
        assert seqs(again) == [2]

    async def test_b4_lag_counts_what_is_not_acked(self, broker: Broker) -> None:
        member = await broker.group(LOG, "readers")
        assert await member.lag() == 0
        await broker.publish(*(record(n, s) for n in range(1, 11) for s in (BTC, ETH)))
        await until_is(member.lag, 20)
        taken = await take(member, 20, ack=False)
        await until_is(member.lag, 20)
        await member.ack(taken[:5])
        await until_is(member.lag, 15)

    @pytest.mark.parametrize("running", [False, True], ids=["while-away", "while-running"])
    async def test_b4_a_group_whose_consumer_was_deleted_goes_on_at_its_acked_place(
        self, backend: Backend, broker: Broker, running: bool
    ) -> None:
        await broker.publish(*(record(n) for n in range(1, 101)))
        member = await broker.group(LOG, "readers")
        taken = await take(member, 100, ack=False)
        await member.ack(taken[:60])
        # What is acked behind a hole is no place to go on from.
        await member.ack(taken[70:80])
        await until_is(lambda: backend.kept(broker, "readers"), 60)
        if not running:
            await member.aclose()
        await backend.delete_group(broker, "readers")
        await broker.publish(*(record(n) for n in range(101, 111)))
        if not running:
            member = await broker.group(LOG, "readers")
        found: list[int] = []
        while 110 not in found:
            found += seqs(await take(member, 1))
        assert list(dict.fromkeys(found)) == list(range(61, 111))
        await until_is(member.lag, 0)
        await until_is(lambda: backend.kept(broker, "readers"), 110)

    async def test_b4_a_log_that_was_lost_is_read_from_its_beginning(
        self, backend: Backend, broker: Broker
    ) -> None:
        await broker.publish(*(record(n) for n in range(1, 101)))
        member = await broker.group(LOG, "readers")
        await take(member, 100)
        await until_is(lambda: backend.kept(broker, "readers"), 100)
        await backend.restart(wiped=True)
        await broker.publish(*(record(n) for n in range(1, 11)))
        assert seqs(await take(member, 10)) == list(range(1, 11))
        await member.aclose()
        await backend.delete_group(broker, "readers")
        await broker.publish(record(11))
        successor = await broker.group(LOG, "readers")
        assert seqs(await take(successor, 1))[-1] <= 11

    async def test_b4_unread_is_what_nobody_was_given(self, broker: Broker) -> None:
        member = await broker.group(LOG, "readers")
        assert await member.unread() == 0
        await broker.publish(*(record(n) for n in range(1, 21)))
        await until_is(member.unread, 20)
        taken = await member.next_batch(8)
        await until_is(member.unread, 20 - len(taken))
        await member.ack(taken)
        await until_is(member.lag, 20 - len(taken))
        assert await member.unread() == 20 - len(taken)

    # ------------------------------------------------------------------ B6

    async def test_b6_a_group_holds_at_most_max_pending_unacked_records(
        self, broker: Broker
    ) -> None:
        await broker.publish(*(record(n) for n in range(1, 31)))
        member = await broker.group(LOG, "readers", max_pending=10)
        held = await take(member, 10, ack=False)
        assert len(held) == 10
        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(take(member, 1, ack=False))
            await trips(broker)
            assert not waiting.done()
            await member.ack(held)
        more = waiting.result()
        assert seqs(more)[0] == 11
        await member.ack(more)
        rest = await take(member, 20 - len(more))
        assert seqs(held + more + rest) == list(range(1, 31))
