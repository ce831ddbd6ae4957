from __future__ import annotations

import asyncio
from collections.abc import Sequence

from services.common.errors import BrokerUnavailable
from services.common.stream.dead_letters import DeadLetters, InvalidLog
from services.common.stream.memory.broker import MemoryBroker
from services.common.wire import RECORD_VERSION, Parked


class _HeldLog(InvalidLog):
    """Writes only when it is let; `failures` are what the first writes end with."""

    def __init__(self, failures: Sequence[BrokerUnavailable] = ()) -> None:
        super().__init__(MemoryBroker())
        self.began = asyncio.Event()
        self.let = asyncio.Event()
        self.stored: list[str] = []
        self._failures = list(failures)

    async def write(self, parked: Sequence[Parked]) -> None:
        self.began.set()
        await self.let.wait()
        if self._failures:
            raise self._failures.pop(0)
        self.stored += [letter.reason for letter in parked]


def _letter(reason: str) -> Parked:
    return Parked(RECORD_VERSION, reason, "", "", 1, "")


async def test_a_flush_waits_for_what_another_one_is_still_writing() -> None:
    invalid = _HeldLog()
    letters = DeadLetters(invalid)
    letters.add(_letter("a"))
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(letters.flush())
        await invalid.began.wait()
        second = tasks.create_task(letters.flush())
        # As often as it takes a task to come to its end that waits for nothing.
        for _ in range(10):
            await asyncio.sleep(0)
        assert not second.done(), "the letter is not stored yet"
        letters.add(_letter("b"))
        invalid.let.set()
        await first
    assert invalid.stored == ["a", "b"]
    assert len(letters) == 0


async def test_of_a_flood_the_newest_are_kept_also_while_others_are_written() -> None:
    invalid = _HeldLog()
    letters = DeadLetters(invalid, keep=3)
    for reason in "abcd":
        letters.add(_letter(reason))
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(letters.flush())
        await invalid.began.wait()
        for reason in "efgh":
            letters.add(_letter(reason))
        invalid.let.set()
    assert invalid.stored == [*"bcd", *"fgh"]


async def test_what_could_not_be_written_is_written_when_the_broker_is_back() -> None:
    invalid = _HeldLog([BrokerUnavailable("test", "away"), BrokerUnavailable("test", "away")])
    invalid.let.set()
    letters = DeadLetters(invalid)
    letters.add(_letter("a"))
    first = letters.first
    assert first is not None
    assert first.reason == "a"
    await letters.flush()
    assert invalid.stored == ["a"]
    assert letters.first is None


async def test_whoever_writes_them_for_ever_waits_when_none_is_left() -> None:
    invalid = _HeldLog()
    letters = DeadLetters(invalid)
    letters.add(_letter("a"))
    async with asyncio.TaskGroup() as tasks:
        writing = tasks.create_task(letters.run())
        await invalid.began.wait()
        letters.add(_letter("b"))
        invalid.let.set()
        # A task that never waits would not let this one go on.
        for _ in range(10):
            await asyncio.sleep(0)
        assert invalid.stored == ["a", "b"]
        assert not writing.done()
        writing.cancel()
