"""Clauses about cursors and positions."""

from __future__ import annotations

import random

import pytest

from services.common.errors import PositionLost
from services.common.stream import Broker, LogSpec, Position, Record
from services.common.testing.conformance import (
    BTC,
    ETH,
    LOG,
    SOL,
    Backend,
    follow,
    read_all,
    record,
    seqs,
    take,
    until,
    until_is,
)


class ReadingClauses:
    """Reading on, seeking, a log's epoch."""

    # ------------------------------------------------------------------ B5

    async def test_b5_reading_goes_on_after_a_cursor_from_any_source(self, broker: Broker) -> None:
        member = await broker.group(LOG, "readers")
        live = await broker.live(LOG)
        records = [record(n, s) for n in range(1, 101) for s in (BTC, ETH)]
        await broker.publish(*records)
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
        await broker.publish(record(1, ETH), record(1), record(2))
        page = await broker.read(BTC, page.cursor, limit=1)
        assert (seqs(page.messages), page.at_head) == ([1], False)
        page = await broker.read(BTC, page.cursor)
        assert (seqs(page.messages), page.at_head) == ([2], True)
        await broker.publish(record(3))
        assert seqs((await broker.read(BTC, page.cursor)).messages) == [3]

    @pytest.mark.parametrize("cursor", ["nonsense", "1@5", "@", "12", "1@p1.1.1", "1@1.5-0"])
    async def test_b5_a_cursor_that_is_not_of_this_log_is_refused(
        self, broker: Broker, cursor: str
    ) -> None:
        await broker.publish(record(1))
        with pytest.raises(PositionLost):
            await broker.read(BTC, cursor)

    async def test_b5_a_cursor_before_what_was_dropped_raises_and_never_skips(
        self, backend: Backend, broker: Broker
    ) -> None:
        await broker.ensure([LogSpec(LOG, 1.0)])
        await broker.publish(record(1))
        page = await broker.read(BTC)
        old = page.messages[0].cursor
        await broker.publish(*(record(n) for n in range(2, 20)))

        async def dropped() -> bool:
            await backend.expire(broker)
            await broker.publish(record(1000 + len(fresh)))
            fresh.append(1)
            oldest = await broker.first(BTC)
            return oldest is not None and oldest.position.seq > 2

        fresh: list[int] = []
        await until(dropped)
        with pytest.raises(PositionLost):
            await broker.read(BTC, old)
        # Where the log is still held, reading goes on; from here on nothing more is dropped.
        await broker.ensure([LogSpec(LOG, 3600)])
        oldest = await broker.first(BTC)
        assert oldest is not None
        page = await broker.read(BTC, await broker.seek(BTC, Position(0, 0)))
        assert page.messages[0].position >= oldest.position

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
        await broker.publish(*(next(queues[s]) for s in order))
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
        await broker.publish(record(1, ETH), record(1))
        assert seqs(await read_all(broker, cursor=cursor)) == [1]

    async def test_first_last_and_subjects_say_what_is_held(self, broker: Broker) -> None:
        assert await broker.first(BTC) is None
        assert await broker.last(BTC) is None
        assert list(await broker.subjects(LOG)) == []
        await broker.publish(record(4, ETH), record(5), record(6), record(1, epoch=2))
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
        await broker.publish(record(1))
        [message] = await read_all(broker)
        await backend.restart()
        await until_is(lambda: broker.log_epoch(LOG), epoch)
        await backend.restart(wiped=True)

        async def is_new() -> bool:
            return await broker.log_epoch(LOG) != epoch

        await until(is_new)
        assert await broker.log_epoch(LOG) > epoch
        with pytest.raises(PositionLost):
            await broker.read(BTC, message.cursor)
