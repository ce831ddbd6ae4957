"""Loads that run before they are asked for: in order, bounded, and ended with whoever asks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from services.common.stores.s3_archive import prefetch


class _Source:
    """Numbers from 1, and loads of them that end when they are let."""

    def __init__(self, count: int, *, breaks_at: int = 0) -> None:
        self.begun: list[int] = []
        self.ended: list[int] = []
        self.closed = False
        self.free = asyncio.Event()
        self.bad = 0
        self._count = count
        self._breaks_at = breaks_at

    async def items(self) -> AsyncGenerator[int]:
        try:
            for number in range(1, self._count + 1):
                if number == self._breaks_at:
                    raise LookupError(f"no item {number}")
                yield number
        finally:
            self.closed = True

    async def load(self, number: int) -> int:
        self.begun.append(number)
        try:
            await self.free.wait()
            # The later ones would be done first.
            for _ in range(self._count - number):
                await asyncio.sleep(0)
            if number == self.bad:
                raise OSError(f"load {number}")
            return number
        finally:
            self.ended.append(number)


async def _settled() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


async def test_results_come_in_order_and_no_more_loads_run_than_are_allowed() -> None:
    source = _Source(6)
    found = []
    async with aclosing(prefetch(source.items(), source.load, 2)) as results:
        asking = asyncio.ensure_future(anext(results))
        await _settled()
        assert source.begun == [1, 2]
        source.free.set()
        found.append(await asking)
        await _settled()
        # While the consumer works on the first.
        assert source.begun == [1, 2, 3]
        async for number in results:
            found.append(number)  # noqa: PERF401 - after the first, which was asked for alone
    assert found == [1, 2, 3, 4, 5, 6]
    assert source.closed


async def test_a_load_that_fails_is_raised_in_its_turn_and_nowhere_else() -> None:
    source = _Source(5)
    source.bad = 2
    source.free.set()
    found: list[int] = []

    async def consume() -> None:
        async with aclosing(prefetch(source.items(), source.load, 3)) as results:
            async for number in results:
                # The second fails meanwhile, and this goes on.
                await _settled()
                assert 2 in source.ended
                found.append(number)

    with pytest.raises(OSError, match="load 2"):
        await consume()
    assert found == [1]
    assert sorted(source.begun) == sorted(source.ended)
    assert source.closed


async def test_items_that_cannot_be_told_are_raised_behind_those_that_were() -> None:
    source = _Source(5, breaks_at=3)
    source.free.set()
    found: list[int] = []

    async def consume() -> None:
        async for number in prefetch(source.items(), source.load, 4):
            found.append(number)  # noqa: PERF401 - what came before it was raised

    with pytest.raises(LookupError, match="no item 3"):
        await consume()
    assert found == [1, 2]


async def test_who_closes_it_ends_the_loads_and_the_items() -> None:
    before = asyncio.all_tasks()
    source = _Source(5)
    source.free.set()
    async with aclosing(prefetch(source.items(), source.load, 2)) as results:
        assert await anext(results) == 1
        source.free.clear()
        await _settled()
    assert sorted(source.begun) == sorted(source.ended)
    assert source.closed
    assert asyncio.all_tasks() == before


async def test_who_is_cancelled_while_he_waits_ends_the_loads() -> None:
    before = asyncio.all_tasks()
    source = _Source(5)

    async def consume() -> None:
        async with aclosing(prefetch(source.items(), source.load, 2)) as results:
            async for _ in results:
                pass

    consuming = asyncio.ensure_future(consume())
    await _settled()
    assert source.begun == [1, 2]
    consuming.cancel()
    with pytest.raises(asyncio.CancelledError):
        await consuming
    assert sorted(source.ended) == [1, 2]
    assert source.closed
    assert asyncio.all_tasks() == before
