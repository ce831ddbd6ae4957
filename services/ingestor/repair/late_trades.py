"""Asking for trades of announced gaps, for as long as the venue may still have them.

One question at a time, behind everything that is urgent: what is asked for here holds nobody up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import structlog

from services.common.clock import now_us
from services.common.errors import VenueError
from services.ingestor.integrity.open_gaps import LateSchedule, denied
from services.ingestor.integrity.sequencer import Gap
from services.ingestor.streams import ProductStreams, TradesStream
from services.ingestor.venues.base import VenueRest

log = structlog.get_logger(__name__)

_LOOK_S = 0.25
_HOUR_US = 3_600_000_000


class LateTrades:
    """Serves the open gaps of all products."""

    def __init__(
        self,
        rest: VenueRest,
        products: Callable[[], Iterable[ProductStreams]],
        has_room: Callable[[], bool],
        *,
        max_hours: float,  # gaps announced longer ago are given up
        restate_s: float,  # what is open is written again so often, that it does not leave the log
    ) -> None:
        self._rest = rest
        self._products = products
        self._has_room = has_room
        self._max_us = int(max_hours * _HOUR_US)
        self._restate_us = int(restate_s * 1e6)
        self._schedule = LateSchedule()

    async def run(self) -> None:
        """Ask until cancelled."""
        clock = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(_LOOK_S)
            if not self._has_room():
                continue
            streams = self._streams()
            self._keep(streams)
            left = {
                product: stream.open.left for product, stream in streams.items() if stream.open.gaps
            }
            ask = self._schedule.next(left, clock())
            if ask is not None:
                await self._ask(streams[ask[0]], *ask)

    async def _ask(self, stream: TradesStream, product: str, asked: Gap) -> None:
        clock = asyncio.get_running_loop().time
        try:
            # The neighbours are there, and say whether the answer is whole.
            rows = await self._rest.trades(
                product, max(1, asked.first - 1), asked.last + 1, background=True
            )
        except VenueError as error:
            log.info("late_trades_not_fetched", product=product, reason=str(error))
            self._schedule.failed(product, clock())
            return
        ts = now_us()
        found = stream.open.found(rows, ts)
        absent = denied(asked, [row.trade_id for row in rows])
        sure = self._schedule.answered(product, asked, absent, clock(), helped=found > 0)
        lost = stream.open.deny(sure, ts)
        if found:
            log.info("late_trades_found", product=product, count=found, left=stream.open.count)
        if lost:
            log.warning("late_trades_denied", product=product, count=lost, ranges=sure)

    def _keep(self, streams: dict[str, TradesStream]) -> None:
        now = now_us()
        for product, stream in streams.items():
            if not stream.open.gaps:
                continue
            expired = stream.open.expire(now - self._max_us, now)
            if expired:
                log.warning("late_trades_expired", product=product, count=expired)
            if now - stream.writer.told_open_at > self._restate_us:
                stream.open.restate(now)

    def _streams(self) -> dict[str, TradesStream]:
        return {
            streams.product: streams.trades
            for streams in self._products()
            if streams.trades is not None and streams.refused is None
        }
