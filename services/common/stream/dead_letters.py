"""Messages that nobody can use, waiting to be written on `market.invalid`."""

from __future__ import annotations

import asyncio
from collections import deque

import structlog

from services.common.errors import BrokerUnavailable
from services.common.resilience.backoff import Backoff
from services.common.stream.invalid_log import InvalidLog
from services.common.wire import Parked

log = structlog.get_logger(__name__)

_FIRST_RETRY_S = 0.05
_LONGEST_RETRY_S = 1.0


class DeadLetters:
    """`add` never waits; `flush` and `run` write.

    Args:
        invalid: where they are written; closed by whoever opened it.
        keep: how many wait at most, of more the newest; None keeps all of them.
    """

    def __init__(self, invalid: InvalidLog, *, keep: int | None = None) -> None:
        self._invalid = invalid
        self._waiting: deque[Parked] = deque(maxlen=keep)
        self._some = asyncio.Event()
        self._writing = asyncio.Lock()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def first(self) -> Parked | None:
        """The one that waits longest."""
        return self._waiting[0] if self._waiting else None

    def add(self, letter: Parked) -> None:
        self._waiting.append(letter)
        self._some.set()

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await self._some.wait()
            await self.flush()

    async def flush(self) -> None:
        """Return when all that were added before are stored, however long the broker takes.

        Raises:
            BrokerClosed: the broker was closed.
            BrokerFailed: the publisher broke.
        """
        if not self._waiting and not self._writing.locked():
            self._some.clear()
            return
        backoff = Backoff(_FIRST_RETRY_S, _LONGEST_RETRY_S)
        # Whoever else writes them now has not finished yet.
        async with self._writing:
            self._some.clear()
            while self._waiting:
                batch = list(self._waiting)
                try:
                    await self._invalid.write(batch)
                except BrokerUnavailable as error:
                    if backoff.attempts == 0:
                        log.warning("not_parked_yet", count=len(batch), reason=str(error))
                    await asyncio.sleep(backoff.next_delay())
                    continue
                backoff.reset()
                written = set(map(id, batch))
                left = [letter for letter in self._waiting if id(letter) not in written]
                self._waiting.clear()
                self._waiting.extend(left)
