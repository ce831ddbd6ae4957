"""A store far away: what its askers see of what is wrong with it, and what is done nevertheless."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random

import pytest

from services.common.errors import StoreUnavailable
from services.common.stores.aws import DYNAMODB, S3
from services.common.stores.ports import LatestRow
from services.common.stream import Position
from services.common.subjects import StreamKey
from services.snapshotter.ddb import RowStore
from tests.simulation.plan import StoreFaultKind
from tests.simulation.stores.opened import Stores
from tests.simulation.test_world import done
from tests.simulation.world import World, world

BTC = StreamKey("coinbase", "ticker", "BTC-USD")
NAME = str(BTC)


def row(seq: int) -> LatestRow:
    return LatestRow(BTC, Position(1, seq), "c", 0, 0, b"{}")


async def attempts(rows: RowStore, count: int) -> list[bool | None]:
    """What each write in turn says; None where nothing was answered."""
    told: list[bool | None] = []
    for seq in range(1, count + 1):
        try:
            told.append(await rows.put(row(seq)))
        except StoreUnavailable:
            told.append(None)
    return told


def run[T](seed: int, main: Callable[[World, Stores], Awaitable[T]]) -> T:
    with world(seed) as it:
        stores = Stores(it.loop, Random(it.random.getrandbits(64)))

        async def script() -> T:
            async def process() -> T:
                async with stores.rows() as rows, stores.bucket() as bucket:
                    await rows.ensure(create=True)
                    await bucket.ensure(create=True)
                return await main(it, stores)

            result: T = await done(it, "snapshotter", process)
            return result

        return it.run(script())


def stored(stores: Stores) -> int:
    """The position of the row; 0 while there is none."""
    item = stores.tables.tables[stores.settings.ddb_table].get(NAME)
    return int(item["seq"]["N"]) if item is not None else 0


@pytest.mark.parametrize("kind", ["away", "silent", "throttle"])
def test_what_is_refused_or_swallowed_was_not_done(kind: StoreFaultKind) -> None:
    async def main(_it: World, stores: Stores) -> tuple[list[bool | None], list[int]]:
        stores.remotes[DYNAMODB].wrong[kind] += 1
        told: list[bool | None] = []
        there = []
        async with stores.rows() as rows:
            for seq in range(1, 8):
                try:
                    told.append(await rows.put(row(seq)))
                except StoreUnavailable:
                    told.append(None)
                there.append(stored(stores))
        return told, there

    told, there = run(1, main)
    assert None in told
    last = 0
    for seq, (answer, held) in enumerate(zip(told, there, strict=True), start=1):
        last = seq if answer else last
        assert held == last


@pytest.mark.parametrize("kind", ["lost", "error"])
def test_of_what_was_not_answered_some_was_done(kind: StoreFaultKind) -> None:
    async def main(_it: World, stores: Stores) -> tuple[int, int]:
        stores.remotes[DYNAMODB].wrong[kind] += 1
        unanswered = nevertheless = 0
        async with stores.rows() as rows:
            for seq in range(1, 60):
                try:
                    assert await rows.put(row(seq))
                except StoreUnavailable:
                    unanswered += 1
                    nevertheless += stored(stores) == seq
        return unanswered, nevertheless

    unanswered, nevertheless = run(2, main)
    assert 0 < nevertheless <= unanswered
    assert (nevertheless == unanswered) is (kind == "lost")


def test_what_is_slow_is_done_after_its_asker_gave_up() -> None:
    async def main(it: World, stores: Stores) -> tuple[list[bool], list[float], int]:
        stores.remotes[S3].wrong["slow"] += 1
        objects = stores.buckets.buckets[stores.settings.s3_bucket]
        there: list[bool] = []
        after_s: list[float] = []
        async with stores.bucket() as bucket:
            for number in range(40):
                began = it.loop.time()
                try:
                    await bucket.put(str(number), b"x", "text/plain")
                except StoreUnavailable:
                    there.append(str(number) in objects)
                    after_s.append(it.loop.time() - began)
        await asyncio.sleep(60.0)
        return there, after_s, len(objects)

    there, after_s, in_the_end = run(3, main)
    assert there
    assert not any(there)
    assert all(after == pytest.approx(20.0) for after in after_s)
    assert in_the_end == 40


def test_what_a_killed_process_sent_is_done() -> None:
    with world(4) as it:
        stores = Stores(it.loop, Random(it.random.getrandbits(64)))

        async def make() -> None:
            async with stores.rows() as rows:
                await rows.ensure(create=True)

        async def write() -> None:
            async with stores.rows() as rows:
                await rows.put(row(1))

        async def script() -> tuple[int, int]:
            await done(it, "snapshotter", make)
            process = it.loop.start(it.network.machine("snapshotter"), write)
            it.loop.call_later(0.001, it.loop.kill, process)
            before = await done(it, "looker", lambda: looked(stores, 0.001))
            return before, await done(it, "looker", lambda: looked(stores, 1.0))

        assert it.run(script()) == (0, 1)


async def looked(stores: Stores, after_s: float) -> int:
    await asyncio.sleep(after_s)
    return stored(stores)


def test_nothing_gets_through_a_blocked_way_until_it_is_free() -> None:
    async def main(it: World, stores: Stores) -> tuple[list[bool | None], int]:
        way = it.network.way(it.network.machine("snapshotter"), it.network.machine(DYNAMODB))
        way.blocked = True
        async with stores.rows() as rows:
            told = await attempts(rows, 6)
            before = stored(stores)
            way.blocked = False
            await asyncio.sleep(1.0)
        assert before == 0
        return told, stored(stores)

    told, after = run(5, main)
    assert told == [None] * 6
    # What was sent over a connection that stood arrives after all.
    assert after > 0


def test_a_read_that_need_not_be_consistent_may_show_the_row_before_for_a_second() -> None:
    async def main(_it: World, stores: Stores) -> tuple[set[int], set[int], set[int]]:
        async def seen(*, consistent: bool) -> set[int]:
            found = set()
            for _ in range(20):
                async with stores.latest(consistent=consistent) as latest:
                    held = await latest.get(BTC)
                    found.add(held.position.seq if held is not None else 0)
            return found

        async with stores.rows() as rows:
            await rows.put(row(1))
            await asyncio.sleep(2.0)
            await rows.put(row(2))
        soon = await seen(consistent=False)
        exact = await seen(consistent=True)
        await asyncio.sleep(2.0)
        return soon, exact, await seen(consistent=False)

    assert run(6, main) == ({1, 2}, {2}, {2})
