"""Several publishers of one subject, and a log that lost the end of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.common.errors import LogWentBack
from services.common.settings import CommonSettings
from services.common.stream import Broker, LogSpec, Position, Publisher, Record
from services.common.stream.factory import open_broker
from services.common.testing.conformance import BTC, ETH, LOG, read_all, record, seqs
from services.common.testing.lost_end import Server, go_back, keep, settings_for
from tools.embedded import NatsServer, ValkeyServer


def _predecessor(record: Record) -> Position | None:
    epoch, seq, _ = record.position
    return Position(epoch, seq - 1) if seq > 1 else None


@pytest.fixture(params=[NatsServer, ValkeyServer])
async def server(request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    async with request.param() as found:
        yield found


@contextlib.asynccontextmanager
async def opened(server: Server) -> AsyncIterator[Broker]:
    async with open_broker(CommonSettings(**settings_for(server))) as broker:
        await broker.ensure([LogSpec(LOG, 3600)])
        yield broker


async def _store(publisher: Publisher, first: int, last: int, subject: str = BTC) -> None:
    for number in range(first, last + 1):
        await publisher.send(record(number, subject))
    await publisher.flush()


async def test_nothing_is_stored_above_what_another_lost_and_nobody_writes_again(
    server: Server, tmp_path: Path
) -> None:
    async with opened(server) as one, opened(server) as other:
        gone = await one.publisher(predecessor=_predecessor)
        left = await other.publisher(predecessor=_predecessor)
        await _store(gone, 1, 5)
        kept = keep(server, tmp_path)
        await _store(gone, 6, 10)
        await _store(left, 11, 20)
        await one.aclose()
        await go_back(server, kept)
        await left.send(record(21))
        with pytest.raises(LogWentBack) as told:
            await left.flush()
        assert (told.value.subject, told.value.position) == (BTC, Position(1, 11))
        assert told.value.newest == Position(1, 5)
        assert seqs(await read_all(other)) == [1, 2, 3, 4, 5]
        # Whoever computes the rest again stores it.
        await _store(await other.publisher(predecessor=_predecessor), 6, 21)
        assert seqs(await read_all(other)) == list(range(1, 22))


async def test_what_all_lost_is_written_again_by_all_of_them_in_its_order(
    server: Server, tmp_path: Path
) -> None:
    async with opened(server) as one, opened(server) as other:
        publishers = [await each.publisher(predecessor=_predecessor) for each in (one, other)]
        await _store(publishers[0], 1, 5)
        kept = keep(server, tmp_path)
        # By turns, so that each has to wait for the other.
        for turn in range(3):
            first = 6 + 4 * turn
            await _store(publishers[turn % 2], first, first + 3)
        await go_back(server, kept)
        async with asyncio.TaskGroup() as both:
            for publisher in publishers:
                both.create_task(_store(publisher, 18, 18))
        assert seqs(await read_all(one)) == list(range(1, 19))


async def test_a_new_record_does_not_stand_on_one_that_was_read_and_is_lost(
    server: Server, tmp_path: Path
) -> None:
    """This publisher has nothing of the subject to write again."""
    async with opened(server) as one, opened(server) as other:
        gone = await one.publisher(predecessor=_predecessor)
        left = await other.publisher(predecessor=_predecessor)
        await _store(gone, 1, 5)
        await _store(left, 1, 1, ETH)
        kept = keep(server, tmp_path)
        await _store(gone, 6, 10)
        await one.aclose()
        await go_back(server, kept)
        await left.send(record(11))
        with pytest.raises(LogWentBack):
            await left.flush()
        assert seqs(await read_all(other)) == [1, 2, 3, 4, 5]
