"""What publishers, subscriptions and connections of the real brokers have in common.

Each owns one background task. It ends with `aclose`; should it end by an error nobody foresaw, its
owner is closed too, so that callers get `BrokerClosed` instead of waiting for ever.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from typing import Any

import structlog

from services.common.errors import BrokerClosed

log = structlog.get_logger(__name__)


def backoff_s(attempt: int, *, base_s: float = 0.05, cap_s: float = 2.0) -> float:
    """How long to wait before try number `attempt` (0, 1, ...): exponential, capped, jittered.

    Never below half of the exponential value, so that a refusing server is not hammered.
    """
    ceiling = min(cap_s, base_s * 2.0 ** min(attempt, 16))
    return random.uniform(ceiling / 2, ceiling)


def worth_saying(attempt: int) -> bool:
    """Whether a failed try is worth a warning: the first, and then now and then."""
    return attempt == 0 or attempt % 15 == 0


class Bell:
    """Wakes everyone who waits; ringing is synchronous."""

    def __init__(self) -> None:
        self._waiters: set[asyncio.Future[None]] = set()

    def ring(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def wait(self, timeout_s: float | None = None) -> None:
        """Return after the next ring or after `timeout_s`, whichever is first."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            if timeout_s is None:
                # Half of what `asyncio.wait` takes, and a turn of the event loop earlier.
                await waiter
            else:
                await asyncio.wait((waiter,), timeout=timeout_s)
        finally:
            self._waiters.discard(waiter)


class Worker:
    """Owner of one background task; `changed` rings whenever a caller should look again."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.closed = False
        self.changed = Bell()
        self._task: asyncio.Task[None] | None = None

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        self._task = asyncio.get_running_loop().create_task(work, name=self.what)
        self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("broker_worker_failed", what=self.what, exc_info=error)
        self.closed = True
        self.changed.ring()

    def check_open(self) -> None:
        """Raise BrokerClosed unless this still works."""
        if self.closed:
            raise BrokerClosed(self.what)

    async def aclose(self) -> None:
        self.closed = True
        self.changed.ring()
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait((self._task,))
