"""Two processes of a service of which one works, and what may happen to that one."""

from __future__ import annotations

import os
import signal
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from services.common.testing.waiting import eventually
from tools.stack.process import Process


class LinePair[L: Process](ABC):
    """Both, started, and whoever gives them work."""

    def __init__(self, lines: Sequence[L]) -> None:
        self.lines = lines

    @abstractmethod
    async def works(self, line: L) -> bool:
        """Whether this is the one that works, by its own word."""

    @abstractmethod
    async def goes_on(self) -> None:
        """Return once what the pair writes has got further."""

    async def worker(self, among: Sequence[L] | None = None) -> L:
        """Which of them works, once one does."""
        found: list[L] = []

        async def one_works() -> bool:
            found[:] = [line for line in among or self.lines if await self.works(line)]
            return len(found) == 1

        await eventually(one_works, "one of them works")
        return found[0]

    # Each leaves both running, with the other one at work.

    async def killed(self, line: L) -> None:
        """It ends without a word."""
        await line.kill()
        await self._other_goes_on(line)
        await line.start()

    async def told_to_stop(self, line: L) -> None:
        """It lets go."""
        await line.stop()
        assert await line.wait() == 0, line.log_tail()
        await self._other_goes_on(line)
        await line.start()

    async def held_up(self, line: L) -> None:
        """It comes back in the middle of what it did, when the other one works."""
        assert line.pid is not None
        os.kill(line.pid, signal.SIGSTOP)
        try:
            await self._other_goes_on(line)
        finally:
            os.kill(line.pid, signal.SIGCONT)

        async def stands_by() -> bool:
            return not await self.works(line)

        await eventually(stands_by, "it stands by")

    async def _other_goes_on(self, line: L) -> None:
        other = next(each for each in self.lines if each is not line)
        assert await self.worker([other]) is other
        await self.goes_on()


# Of a pair's line.
Accident = Callable[[LinePair[Any], Any], Awaitable[None]]
ACCIDENTS = (LinePair.killed, LinePair.told_to_stop, LinePair.held_up)
