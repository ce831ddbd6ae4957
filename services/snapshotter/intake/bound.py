"""The bound on bytes of records that were taken and are not fully stored yet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class IntakeBound:
    """Counts what one log's intake holds, and makes it wait while that is too much."""

    _name: str  # the log
    _limit: int  # nothing more is taken while so many bytes are held
    _show: Callable[[float], None]  # told how many are held
    unacked: int = 0  # bytes of deliveries that are not acknowledged
    refilled: int = 0  # bytes of records read from the log that are not archived
    waiting: int = 0  # bytes of deliveries of streams that are being restored
    paused: bool = False  # whether the intake waits now
    _room: asyncio.Event = field(default_factory=asyncio.Event)

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
