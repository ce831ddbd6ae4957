"""Healing: fetching over REST what the streams ask for, one task per product and want.

A refill has an allowance of time without progress. When it is used up, what is missing is announced
as an open gap, which `repair/late_trades.py` goes on asking for, and the product goes on. A book
has no allowance, since there is nothing to go on with, and is asked for until it comes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import structlog
from opentelemetry import trace

from services.common.clock import now_us
from services.common.errors import VenueError, VenueRefused
from services.common.resilience import Backoff
from services.ingestor.integrity.open_gaps import denied
from services.ingestor.integrity.sequencer import Gap
from services.ingestor.streams import (
    BookStream,
    OrdersStream,
    ProductStreams,
    TickerStream,
    TradesStream,
    Want,
)
from services.ingestor.venues.base import TradeRow, VenueRest

log = structlog.get_logger(__name__)
tracer = trace.get_tracer(__name__)

# A trade that only came late needs no call: wait this long before making one.
_GRACE_S = 0.02
# How long to wait before asking again for an answer that was older than the question.
_STALE_S = 0.3
# How often to look whether the broker has room again.
_ROOM_S = 0.05
# Trades in one answer, at most, of which two are neighbours.
_PAGE = 998
# A book asked for by resubscribing must have come by then; else it is fetched over REST.
_RESUBSCRIBED_S = 2.0
# A product's book is not re-based more often than this.
_REBASE_PAUSE_S = 1.0
_LONGEST_REBASE_PAUSE_S = 30.0

# Asks the venue to send a product's book anew; False when the connection is not up.
Resubscribe = Callable[[str], Awaitable[bool]]


@dataclass(eq=False)
class Healer:
    """Serves the streams' wants."""

    _rest: VenueRest
    _group: asyncio.TaskGroup  # parent of the tasks
    _has_room: Callable[[], bool]  # whether the broker takes records now
    _max_queue_s: float  # the allowance, seconds
    _max_trades: int  # a hole larger than this is healed at its newer end only
    _tasks: dict[tuple[str, Want], asyncio.Task[None]] = field(default_factory=dict)

    @property
    def under_way(self) -> int:
        """How many heals run now."""
        return len(self._tasks)

    def want(self, streams: ProductStreams, want: Want, resubscribe: Resubscribe) -> None:
        """See to `want`; nothing happens when that is already under way."""
        key = (streams.product, want)
        running = self._tasks.get(key)
        # A task that has just ended is still listed until its callback runs, and serves no more.
        if running is None or running.done():
            task = self._group.create_task(
                self._serve(streams, want, resubscribe), name=f"heal:{streams.product}:{want.value}"
            )
            self._tasks[key] = task
            task.add_done_callback(lambda ended: self._ended(key, ended))

    def _ended(self, key: tuple[str, Want], task: asyncio.Task[None]) -> None:
        if self._tasks.get(key) is task:
            del self._tasks[key]

    def forget(self, product: str) -> None:
        """Stop all heals of a product."""
        for (held, _), task in self._tasks.items():
            if held == product:
                task.cancel()

    async def _serve(self, streams: ProductStreams, want: Want, resubscribe: Resubscribe) -> None:
        with tracer.start_as_current_span(
            "ingest.resync", attributes={"product": streams.product, "want": want.value}
        ):
            if want is Want.TRADES and streams.trades is not None:
                await self._trades(streams.product, streams.trades)
            elif want is Want.BOOK and isinstance(streams.book, OrdersStream):
                await self._orders(streams.product, streams.book)
            elif want is Want.BOOK and isinstance(streams.book, BookStream):
                await self._book(streams.product, streams.book, resubscribe)
            elif want is Want.TICKER and streams.ticker is not None:
                await self._ticker(streams.product, streams.ticker)

    async def _trades(self, product: str, stream: TradesStream) -> None:
        await asyncio.sleep(_GRACE_S)
        clock = asyncio.get_running_loop().time
        progress = clock()
        absent: _Absent | None = None
        while stream.healing:
            if not self._has_room():
                # The allowance is for the venue: a broker that is away does not use it up.
                await asyncio.sleep(_ROOM_S)
                progress = clock()
                continue
            if stream.settle(now_us()):
                return
            missing = stream.missing()
            if missing is None:
                await asyncio.sleep(_ROOM_S)
                continue
            if missing.count > self._max_trades:
                self._go_on(
                    product, stream, "more than is refilled", upto=missing.last - self._max_trades
                )
                continue
            # Every answer that helps renews the allowance, and waiting for our own limiter, which
            # all products share, does not use it up.
            left = progress + self._max_queue_s + self._rest.backlog_s - clock()
            try:
                async with asyncio.timeout(max(0.0, left)):
                    # Its neighbours too: they are there, so an answer without them is stale, or
                    # was cut, and one with them is believed about those between.
                    rows = await self._rest.trades(
                        product, max(1, missing.first - 1), missing.last + 1
                    )
                    if stream.refill(rows, now_us()) or stream.missing() != missing:
                        progress = clock()
                        absent = None
                        continue
                    hole = _absent(missing, rows)
                    if hole is not None and hole == absent:
                        # The same conclusion twice is believed, since the first answer may have
                        # been a cache's.
                        reason = "denied by the venue" if hole.sure else "not told by the venue"
                        self._go_on(product, stream, reason, upto=hole.last, denied=hole.sure)
                        continue
                    absent = hole
                    await asyncio.sleep(_STALE_S)
            except TimeoutError:
                self._go_on(product, stream, "allowance used up")
            except VenueRefused as error:
                self._go_on(product, stream, str(error))
            except VenueError as error:
                log.warning("refill_failed", product=product, reason=str(error))
                await asyncio.sleep(_STALE_S)

    @staticmethod
    def _go_on(
        product: str,
        stream: TradesStream,
        reason: str,
        *,
        upto: int | None = None,
        denied: bool = False,
    ) -> None:
        missing = stream.missing()
        if missing is not None:
            last = missing.last if upto is None else upto
            told = {"product": product, "first": missing.first, "last": last, "reason": reason}
            if denied:
                log.warning("trades_lost", **told)
            else:
                log.warning("trades_missing", **told)
        stream.give_up(now_us(), upto=upto, denied=denied)

    async def _book(self, product: str, stream: BookStream, resubscribe: Resubscribe) -> None:
        backoff = Backoff(0.2, 5.0, least=0.0)
        pause = _REBASE_PAUSE_S
        while stream.suspect:
            if not self._has_room():
                await asyncio.sleep(_ROOM_S)
                continue
            if not await resubscribe(product):
                # The next connection begins with a snapshot of its own.
                return
            if await self._rebased(stream) or await self._book_over_rest(product, stream):
                # Whatever makes it suspect again meanwhile is served by the next turn; the oftener
                # in a row, the later: a whole book for each message is no way to follow a market.
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_REBASE_PAUSE_S)
                backoff.reset()
            else:
                await asyncio.sleep(backoff.next_delay())

    @staticmethod
    async def _rebased(stream: BookStream) -> bool:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _RESUBSCRIBED_S
        while stream.suspect and loop.time() < deadline:  # noqa: ASYNC110 - streams are pure, no Event
            await asyncio.sleep(_ROOM_S)
        return not stream.suspect

    async def _book_over_rest(self, product: str, stream: BookStream) -> bool:
        stream.hold()
        try:
            async with asyncio.timeout(self._max_queue_s):
                while not stream.image(await self._rest.book(product), now_us()):  # noqa: ASYNC110 - CDN
                    # The CDN's copy is older than what was already passed on.
                    await asyncio.sleep(_STALE_S)
        except (TimeoutError, VenueError) as error:
            log.warning("book_fetch_failed", product=product, reason=str(error))
            stream.release()
        return not stream.suspect

    async def _orders(self, product: str, stream: OrdersStream) -> None:
        backoff = Backoff(0.2, 5.0, least=0.0)
        # What only came late needs no call.
        await asyncio.sleep(_GRACE_S)
        while stream.fetchable:
            if not self._has_room():
                await asyncio.sleep(_ROOM_S)
                continue
            try:
                if stream.image(await self._rest.orders(product), now_us()):
                    await asyncio.sleep(_REBASE_PAUSE_S)
                    backoff.reset()
                else:
                    # Behind the first message that waits: a cache's copy, or a slow replica.
                    await asyncio.sleep(_STALE_S)
            except VenueError as error:
                log.warning("orders_fetch_failed", product=product, reason=str(error))
                await asyncio.sleep(backoff.next_delay())

    async def _ticker(self, product: str, stream: TickerStream) -> None:
        backoff = Backoff(0.3, 5.0, least=0.0)
        while stream.behind:
            if self._has_room():
                try:
                    if stream.refreshed(await self._rest.ticker(product), now_us()):
                        continue
                except VenueError as error:
                    log.warning("ticker_fetch_failed", product=product, reason=str(error))
            await asyncio.sleep(max(_ROOM_S, backoff.next_delay()))


class _Absent(NamedTuple):
    """Up to `last` an answer tells nothing of what is missing; `sure`: it would have to."""

    last: int
    sure: bool


def _absent(missing: Gap, rows: Sequence[TradeRow]) -> _Absent | None:
    """What an answer that helped nothing says; None when it may only be stale."""
    numbers = [row.trade_id for row in rows]
    absent = denied(missing, numbers)
    if absent and absent[0][0] == missing.first:
        return _Absent(absent[0][1], sure=True)
    above = [number for number in numbers if number > missing.first]
    if above:
        return _Absent(above[0] - 1, sure=False)
    # Not one in a whole page, though far newer ones exist: go on with those.
    return _Absent(missing.last - _PAGE, sure=False) if missing.count > _PAGE else None
