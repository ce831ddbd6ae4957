"""The bound on bytes of records that were taken and are not fully stored yet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

log = structlog.get_logger(__name__)


class IntakeBound:
    """Counts what one log's intake holds, and makes it wait while that is too much.

    Args:
        name: the log.
        limit: nothing more is taken while so many bytes are held.
        show: told how many are held.

    Attributes:
        unacked: bytes of deliveries that are not acknowledged.
        refilled: bytes of records read from the log that are not archived.
        waiting: bytes of deliveries of streams that are being restored.
        paused: whether the intake waits now.
    """

    def __init__(self, name: str, limit: int, show: Callable[[float], None]) -> None:
        self._name = name
        self._limit = limit
        self.unacked = 0
        self.refilled = 0
        self.waiting = 0
        self.paused = False
        self._room = asyncio.Event()
        self._show = show

    @property
    def held(self) -> int:
        """All of it."""
        return self.taken + self.waiting

    @property
    def taken(self) -> int:
        """Without what waits for its stream to be restored."""
        return self.unacked + self.refilled

    @property
    def full(self) -> bool:
        return self.held >= self._limit

    async def wait_for_room(self) -> None:
        """Return once less than the limit is held."""
        await self._wait(lambda: self.held)

    async def wait_for_room_to_restore(self) -> None:
        """The same for who reads what a stream lacks: what waits is delivered behind that."""
        await self._wait(lambda: self.taken)

    async def _wait(self, held: Callable[[], int]) -> None:
        if held() < self._limit:
            return
        log.warning("intake_paused", log=self._name, held_bytes=self.held)
        self.paused = True
        while held() >= self._limit:
            self._room.clear()
            await self._room.wait()
        self.paused = False
        log.info("intake_resumed", log=self._name)

    def changed(self) -> None:
        """Less is held, or it has to be shown anew."""
        self._show(self.held)
        self._room.set()

    def show(self) -> None:
        self._show(self.held)
