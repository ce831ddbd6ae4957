"""Malformed messages, kept on `market.invalid` for whoever investigates them."""

from __future__ import annotations

import asyncio
from collections import deque

import structlog

from services.common.errors import BrokerUnavailable
from services.common.stream.invalid_log import InvalidLog
from services.common.wire import RECORD_VERSION, Parked
from services.ingestor.metrics import Metrics

log = structlog.get_logger(__name__)

# Of a malformed message this much is kept: enough to see what it was.
_KEPT_CHARACTERS = 65_536
# How many wait for the broker; of a flood the newest are as telling as all.
_MAX_WAITING = 256
_RETRY_S = 1.0


class Parking:
    """`park` never waits; `run` writes what was parked."""

    def __init__(self, invalid: InvalidLog, metrics: Metrics) -> None:
        self._invalid = invalid
        self._metrics = metrics
        self._waiting: deque[Parked] = deque(maxlen=_MAX_WAITING)
        self._some = asyncio.Event()

    def park(self, reason: str, original: bytes, ts: int) -> None:
        """Keep a message; all are counted, and the newest of those that wait are kept."""
        self._metrics.invalid(reason)
        text = original[:_KEPT_CHARACTERS].decode(errors="replace")
        self._waiting.append(Parked(RECORD_VERSION, reason, "", "", ts, text))
        self._some.set()

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await self._some.wait()
            await self.flush()

    async def flush(self) -> None:
        """Write what waits, however long the broker takes."""
        self._some.clear()
        while self._waiting:
            batch = list(self._waiting)
            try:
                await self._invalid.write(batch)
            except BrokerUnavailable as error:
                log.warning("not_parked_yet", count=len(batch), reason=str(error))
                await asyncio.sleep(_RETRY_S)
                continue
            written = set(map(id, batch))
            self._waiting = deque(
                (one for one in self._waiting if id(one) not in written), maxlen=_MAX_WAITING
            )
