"""Knowing the head of each stream's tick log, without asking for every record.

A stream's head is read before its first record is worked on, and again when it was not read for
`REFRESH_S`: another normalizer may write the same ticks, and this one may be far behind it. The
broker drops a tick that was stored within its duplicate window; reading the head well within that
window makes sure that none older is sent a second time. After an outage every head is read again,
as the log may have lost its end: what was delivered again must not pass for a duplicate then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

import structlog

from services.common.errors import BrokerUnavailable
from services.common.resilience import Backoff
from services.common.stream import Broker
from services.common.subjects import StreamKey
from services.normalizer.normalize import Normalizer

log = structlog.get_logger(__name__)

# A quarter of the duplicate window that logs are made with (`LogSpec.duplicate_window_s`).
REFRESH_S = 30.0
_CONCURRENT = 64
_RETRY_S = (0.05, 1.0)


async def patiently[T](call: Callable[[], Awaitable[T]]) -> T:
    """Call until the broker answers, waiting up to 1 s in between; cancel to give up."""
    backoff = Backoff(*_RETRY_S)
    while True:
        try:
            return await call()
        except BrokerUnavailable as error:
            if backoff.attempts == 0:
                log.warning("broker_unavailable", reason=str(error))
            await asyncio.sleep(backoff.next_delay())


class Heads:
    """Keeps the chain's held positions at or beyond the tick log's heads."""

    def __init__(self, broker: Broker, normalizer: Normalizer, clock: Callable[[], float]) -> None:
        self._broker = broker
        self._normalizer = normalizer
        self._clock = clock
        self._read_at: dict[StreamKey, float] = {}

    def stale(self, key: StreamKey) -> bool:
        read_at = self._read_at.get(key)
        return read_at is None or self._clock() - read_at > REFRESH_S

    def forget(self) -> None:
        """What was read or published may be gone: read each head again before it is built upon."""
        self._read_at.clear()
        self._normalizer.forget()

    async def refresh(self, keys: Iterable[StreamKey]) -> None:
        """Read the heads of these streams' tick logs."""
        limit = asyncio.Semaphore(_CONCURRENT)
        async with asyncio.TaskGroup() as tasks:
            for key in keys:
                tasks.create_task(self._refresh_one(key, limit), name=f"head:{key}")

    async def _refresh_one(self, key: StreamKey, limit: asyncio.Semaphore) -> None:
        async with limit:
            asked_at = self._clock()
            subject = self._normalizer.subject(key)
            last = await patiently(lambda: self._broker.last(subject))
            if last is not None:
                self._normalizer.chain.restore(key, last.position)
            self._read_at[key] = asked_at
