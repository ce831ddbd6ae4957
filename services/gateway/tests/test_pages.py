"""Pages of the logs, read once for all who need them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from services.common.errors import PositionLost
from services.common.stream import Page, Position
from services.common.stream.memory.broker import MemoryBroker
from services.common.stream.specs import log_specs
from services.gateway.history.log_page_cache import LogPageCache
from services.gateway.metrics import Metrics
from services.gateway.streams.feed import StreamFeed
from services.gateway.streams.record_reader import RecordReader
from services.gateway.testing import Market, bench, eventually, small_settings


class Counting(MemoryBroker):
    """Counts what it is asked, can be held up, and forgets as retention does."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = self.seeks = 0
        self.expired: set[str] = set()
        self.gate = asyncio.Event()
        self.gate.set()

    async def read(self, subject: str, cursor: str = "", *, limit: int = 1000) -> Page:
        self.reads += 1
        await self.gate.wait()
        if cursor in self.expired:
            raise PositionLost(subject, cursor, None)
        return await super().read(subject, cursor, limit=limit)

    async def seek(self, subject: str, after: Position) -> str:
        self.seeks += 1
        return await super().seek(subject, after)


@pytest.fixture
async def broker() -> AsyncIterator[Counting]:
    async with Counting() as found:
        await found.ensure(log_specs(small_settings()))
        yield found


async def filled(broker: Counting, count: int) -> Market:
    publisher = await broker.publisher()
    market = Market(publisher)
    await market.ticks(count)
    await publisher.aclose()
    return market


RECORDS = RecordReader(Metrics())


async def test_a_page_before_the_head_is_read_once_whoever_asks_and_when(broker: Counting) -> None:
    market = await filled(broker, 1200)
    pages, after = LogPageCache(broker, RECORDS), Position(market.epoch, market.chain[9])
    broker.gate.clear()
    async with asyncio.TaskGroup() as group:
        asking = [group.create_task(pages.after_position(market.subject, after)) for _ in range(20)]
        await asyncio.sleep(0)
        broker.gate.set()
    first = asking[0].result()
    assert [entry.position.seq for entry in first.records] == market.chain[10:510]
    assert all(task.result() is first for task in asking)
    assert await pages.after_position(market.subject, after) is first
    assert broker.reads == 1
    rest = await pages.after(
        market.subject, (await pages.after(market.subject, first.cursor)).cursor
    )
    assert [entry.position.seq for entry in rest.records] == market.chain[1010:]
    assert rest.at_head


async def test_a_page_at_the_head_is_read_anew_since_it_grows(broker: Counting) -> None:
    market = await filled(broker, 30)
    pages, after = LogPageCache(broker, RECORDS), Position(market.epoch, market.chain[9])
    assert len((await pages.after_position(market.subject, after)).records) == 20
    publisher = await broker.publisher()
    more = Market(publisher)
    more.seq = market.seq
    await more.ticks(5)
    assert len((await pages.after_position(market.subject, after)).records) == 25


async def test_whoever_waits_goes_on_when_the_one_who_reads_is_gone(broker: Counting) -> None:
    market = await filled(broker, 1200)
    pages, after = LogPageCache(broker, RECORDS), Position(market.epoch, market.chain[9])
    broker.gate.clear()
    async with asyncio.TaskGroup() as group:
        reader = group.create_task(pages.after_position(market.subject, after))
        others = [group.create_task(pages.after_position(market.subject, after)) for _ in range(3)]
        await eventually(lambda: broker.reads == 1)
        reader.cancel()
        broker.gate.set()
    assert [len(task.result().records) for task in others] == [500] * 3
    assert broker.reads == 2


async def test_what_is_held_is_bounded_and_the_oldest_goes_first(broker: Counting) -> None:
    market = await filled(broker, 3000)
    pages = LogPageCache(broker, RECORDS, max_bytes=3 * 500 * 700)
    cursor = ""
    cursors = []
    for _ in range(5):
        cursors.append(cursor)
        cursor = (await pages.after(market.subject, cursor)).cursor
    assert broker.reads == 5
    await pages.after(market.subject, cursors[4])
    assert broker.reads == 5
    await pages.after(market.subject, cursors[0])
    assert broker.reads == 6


async def test_a_place_that_expired_is_looked_for_again(broker: Counting) -> None:
    market = await filled(broker, 1200)
    pages, after = (
        LogPageCache(broker, RECORDS, max_bytes=0),
        Position(market.epoch, market.chain[9]),
    )
    await pages.after_position(market.subject, after)
    await pages.after_position(market.subject, after)
    assert broker.seeks == 1
    broker.expired.add(await broker.seek(market.subject, after))
    with pytest.raises(PositionLost):
        await pages.after_position(market.subject, after)
    broker.expired.clear()
    seeks = broker.seeks
    assert len((await pages.after_position(market.subject, after)).records) == 500
    assert broker.seeks == seeks + 1


async def test_what_is_forgotten_is_read_again_once_however_many_ask_for_it(
    broker: Counting,
) -> None:
    market, now = await filled(broker, 1200), [0.0]
    pages = LogPageCache(broker, RECORDS, clock=lambda: now[0])
    after = Position(market.epoch, market.chain[9])

    async def reads_and_seeks() -> tuple[int, int]:
        before = broker.reads, broker.seeks
        pages.forget(market.subject)
        await pages.after_position(market.subject, after)
        return broker.reads - before[0], broker.seeks - before[1]

    await pages.after_position(market.subject, after)
    assert await reads_and_seeks() == (1, 1)
    assert await reads_and_seeks() == (0, 0)
    now[0] = 1.0
    assert await reads_and_seeks() == (1, 1)


async def test_many_who_come_back_with_one_position_are_one_reader_of_the_log() -> None:
    broker = Counting()
    async with bench(broker, window_bytes=4000) as gateway:
        market = gateway.market()
        await market.ticks(3000)
        clients = [gateway.client() for _ in range(10)]
        async with clients[0] as first:
            await first.send(type="subscribe", products=["BTC-USD"], from_seq=market.chain[0])
            await first.reach(market)
            alone = broker.reads
            for client in clients[1:]:
                async with client:
                    await client.send(
                        type="subscribe", products=["BTC-USD"], from_seq=market.chain[0]
                    )
                    await client.reach(market)
                    assert client.seen[str(market.key)] == market.chain[1:]
        # Each reads the end by itself, and looks for it once.
        assert broker.reads - alone <= 2 * len(clients[1:])
        assert alone >= 6


async def test_where_other_records_stand_by_now_the_place_is_looked_for_by_position() -> None:
    """A log that lost its end may get it back in another order, so that known places skip some."""
    broker = Counting()
    async with bench(broker, window_bytes=4000) as gateway:
        market = gateway.market()
        await market.ticks(3000)
        far = await broker.seek(market.subject, Position(market.epoch, market.chain[1999]))
        backfill = gateway.gateway.parts.backfill
        read = backfill.read

        async def reads(feed: StreamFeed, position: Position, cursor: str) -> Any:
            backfill.read = read  # type: ignore[method-assign]  # once
            return await read(feed, position, far)

        backfill.read = reads  # type: ignore[method-assign]  # the moment
        async with gateway.client() as client:
            await client.send(type="subscribe", products=["BTC-USD"], from_seq=market.chain[9])
            await client.reach(market)
            assert client.seen[str(market.key)] == market.chain[10:]
            assert "snapshot" not in client.types()
