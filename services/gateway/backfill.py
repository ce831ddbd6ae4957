"""Where a client's position is: in the window, the log, the archive, or nowhere any more."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Any

import structlog

from services.common.errors import PositionLost, StoreUnavailable
from services.common.stream import Broker, Position
from services.gateway.chain.stream_record import LAST_SUB, StreamRecord
from services.gateway.fanout.subscription import BEGINNING
from services.gateway.history.archive import Archive
from services.gateway.history.log_page_cache import LogPageCache
from services.gateway.protocol import (
    FUTURE_POSITION,
    TOO_OLD,
    LeftOut,
    Problem,
    epoch_changed,
    left_out,
    too_old,
    unavailable,
)
from services.gateway.streams.feed import StreamFeed
from services.gateway.streams.record_reader import RecordReader

log = structlog.get_logger(__name__)

# Enough to find the first record that is no status.
_PEEK = 20
# How often a place is looked for anew that the log dropped meanwhile.
_TRIES = 4
# How far this gateway's head may be behind what another one has sent, in time: as a rule, and when
# the log says that it is.
_BEHIND_S = 0.5
_LAGS_S = 10.0


@dataclass(frozen=True, slots=True)
class Start:
    """Where a backfill begins."""

    position: Position  # everything after it is to be sent
    seq: int  # what the client holds by then; the first record's `prev` is not above it
    asked: int  # the position as the client gave it
    # What is left out though it is retained, or may be: the fields of an error. None: nothing.
    warning: dict[str, Any] | None = None


class Backfill:
    """Finds places in the log and the archive, and reads from them.

    Raises BrokerUnavailable where the log has to be asked and does not answer.

    Args:
        max_age_us: how old the first record of a backfill may be, microseconds. The archive is
            asked only where the log does not reach back so far.

    Attributes:
        turn: held for the turn of the event loop in which a client is handed a piece.
    """

    def __init__(
        self, broker: Broker, records: RecordReader, archive: Archive, max_age_us: int
    ) -> None:
        self._broker = broker
        self._records = records
        self._pages = LogPageCache(broker, records)
        self._archive = archive
        self._max_age_us = max_age_us
        self.turn = asyncio.Lock()

    async def start(
        self, feed: StreamFeed, from_seq: int, epoch: int | None, now_us: int, *, late: bool = False
    ) -> Start:
        """Where to begin for a client that holds `from_seq` (0: with the oldest).

        `late`: it wants late trades; which of those that stand behind `from_seq` and before the
        next record it has cannot be told by `from_seq`, so it gets them again.

        Raises:
            Problem: 4000, 4001 or 4002: it cannot be served exactly.
        """
        for _ in range(_TRIES):
            try:
                return await self._start(feed, from_seq, epoch, now_us, late)
            except PositionLost:
                # What was found was dropped before it was read; the next look finds what is left.
                continue
        head = feed.replica.head
        oldest = head.seq if head is not None else None
        message = "the log drops its oldest records faster than they are found"
        raise Problem(TOO_OLD, message, oldest_seq=oldest)

    async def _start(
        self, feed: StreamFeed, from_seq: int, epoch: int | None, now_us: int, late: bool
    ) -> Start:
        head = feed.replica.head
        if epoch is not None and head is not None and epoch != head.epoch:
            raise epoch_changed(head.epoch, head.seq)
        if head is None:
            if from_seq:
                raise Problem(FUTURE_POSITION, "the stream holds no record yet", head=None)
            return Start(BEGINNING, 0, 0)
        if from_seq > head.seq and not await self._reached(feed, from_seq):
            raise Problem(FUTURE_POSITION, f"the stream's head is {head.seq}", head=head.seq)
        head = feed.replica.head or head
        if from_seq == 0:
            return await self._oldest(feed, now_us)
        position = Position(head.epoch, from_seq, 0 if late else LAST_SUB)
        first = await self._first_after(feed, position)
        if first is None and from_seq == head.seq:
            return Start(position, from_seq, from_seq)
        oldest_us = now_us - self._max_age_us
        if not _continues(first, position) and (first is None or first.ts_ingest >= oldest_us):
            first = await self._archived_after(feed, position) or first
        if first is None or not _continues(first, position) or first.ts_ingest < oldest_us:
            oldest, _ = await self._oldest_entry(feed, oldest_us)
            raise too_old(oldest.position.seq if oldest is not None else head.seq)
        return Start(position, from_seq, from_seq)

    async def _reached(self, feed: StreamFeed, seq: int) -> bool:
        """Whether the head is at `seq` or soon will be.

        What is live comes to each gateway by itself, and to some before it is stored: a client may
        hold what the next gateway has not seen yet. A gateway that is too busy to keep up, just
        when many come to it, asks the log before it refuses what it has not seen.
        """
        if await _comes(feed, seq, _BEHIND_S):
            return True
        last, head = await self._broker.last(feed.subject), feed.replica.head
        stored = self._records.read([last]) if last is not None else []
        if head is None or not stored or stored[0].position.epoch != head.epoch:
            return False
        return stored[0].position.seq >= seq and await _comes(feed, seq, _LAGS_S)

    async def read(
        self, feed: StreamFeed, position: Position, cursor: str
    ) -> tuple[deque[StreamRecord], str]:
        """Records after `position` from the log (none at its head), and the cursor to go on from.

        Raises:
            PositionLost: the cursor expired; try again without it.
        """
        subject = feed.subject
        if cursor:
            page = await self._pages.after(subject, cursor)
        else:
            page = await self._pages.after_position(subject, _for_seek(position))
        while True:
            found = deque(record for record in page.records if record.position > position)
            if found or page.at_head:
                return found, page.cursor
            page = await self._pages.after(subject, page.cursor)

    async def read_anew(
        self, feed: StreamFeed, position: Position
    ) -> tuple[deque[StreamRecord], str]:
        """The same by position only, whatever is known of places: what stood there did not follow.

        Raises:
            PositionLost: what followed was dropped between two questions; ask again.
        """
        self._pages.forget(feed.subject)
        return await self.read(feed, position, "")

    async def archived(
        self, feed: StreamFeed, position: Position, now_us: int | None = None
    ) -> list[StreamRecord]:
        """A page of records after `position` from the archive.

        With `now_us`, none when the first of them is older than a backfill may be.

        Raises:
            StoreUnavailable: the archive does not answer.
        """
        page = await self._archive.page(feed.key, feed.shard, position)
        if now_us is not None and page and page[0].ts_ingest < now_us - self._max_age_us:
            return []
        return page

    async def _archived_after(self, feed: StreamFeed, position: Position) -> StreamRecord | None:
        try:
            return await self._archive.first_after(feed.key, feed.shard, position)
        except StoreUnavailable as error:
            # Whether it could be served is not known; saying "too old" might be wrong.
            raise unavailable("the archive does not answer") from error

    async def _first_after(self, feed: StreamFeed, position: Position) -> StreamRecord | None:
        """The first tick or reset after `position`, from where it will be read on.

        Raises:
            PositionLost: the log dropped it between two questions.
        """
        window = feed.replica.window
        if window.covers(position):
            return window.first_after(position)
        page = await self._pages.after_position(feed.subject, _for_seek(position))
        while True:
            for record in page.records:
                if record.chained and record.position > position:
                    return record
            if page.at_head:
                return None
            page = await self._pages.after(feed.subject, page.cursor)

    async def _peek_after(self, feed: StreamFeed, position: Position) -> StreamRecord | None:
        """The same, without reading more than it takes to see it."""
        window = feed.replica.window
        if window.covers(position):
            return window.first_after(position)
        cursor = await self._broker.seek(feed.subject, _for_seek(position))
        while True:
            page = await self._broker.read(feed.subject, cursor, limit=_PEEK)
            for record in self._records.read(page.messages):
                if record.chained and record.position > position:
                    return record
            if page.at_head:
                return None
            cursor = page.cursor

    async def _oldest(self, feed: StreamFeed, now_us: int) -> Start:
        oldest, cut = await self._oldest_entry(feed, now_us - self._max_age_us)
        mark = feed.replica.mark or BEGINNING
        before = oldest.before if oldest is not None else mark
        if not before.seq:
            # The epoch begins here.
            cut = None
        elif cut is None:
            cut = await self._cut_in_archive(feed, before)
        if cut is None:
            return Start(before, before.seq, 0)
        seq = oldest.position.seq if oldest is not None else None
        return Start(before, before.seq, 0, left_out(cut, seq, self._max_age_us // 60_000_000))

    async def _oldest_entry(
        self, feed: StreamFeed, oldest_us: int
    ) -> tuple[StreamRecord | None, LeftOut | None]:
        """The oldest tick or reset retained that is young enough, and why older ones are left out.

        None for the record: none is young enough. None for why: no older one was seen.
        """
        head = feed.replica.head
        first = await self._peek_after(feed, BEGINNING)
        if head is not None and (
            first is None or (first.prev is not None and first.ts_ingest >= oldest_us)
        ):
            older, cut = await self._oldest_archived(feed, head.epoch, oldest_us)
            if older is not None and (first is None or older.position < first.position):
                return older, cut
            return first, cut
        if first is None or head is None or first.ts_ingest >= oldest_us:
            return first, None
        # Older ones are still in the log: find the limit by halving the range of seqs.
        if first.position.epoch != head.epoch:
            first = await self._peek_after(feed, Position(head.epoch, 0))
            if first is None or first.ts_ingest >= oldest_us:
                # Of an epoch that begins here nothing is left out.
                return first, None if first is not None and not first.before.seq else "age"
        low, high = first.position.seq, head.seq
        found: StreamRecord | None = None
        while low < high:
            middle = (low + high) // 2
            record = await self._peek_after(feed, Position(head.epoch, middle, LAST_SUB))
            if record is None:
                break
            if record.ts_ingest >= oldest_us:
                found, high = record, middle
            else:
                low = record.position.seq
        return found, "age"

    async def _cut_in_archive(self, feed: StreamFeed, before: Position) -> LeftOut | None:
        """Why records up to `before`, which the log does not hold, are left out; None: gone."""
        try:
            eldest = await self._archive.first_after(
                feed.key, feed.shard, Position(before.epoch, 0)
            )
        except StoreUnavailable as error:
            log.warning("archive_read_failed", stream=str(feed.key), reason=str(error))
            return "archive"
        return "age" if eldest is not None and eldest.position <= before else None

    async def _oldest_archived(
        self, feed: StreamFeed, epoch: int, oldest_us: int
    ) -> tuple[StreamRecord | None, LeftOut | None]:
        try:
            found = await self._archive.oldest_since(feed.key, feed.shard, epoch, oldest_us)
        except StoreUnavailable as error:
            log.warning("archive_read_failed", stream=str(feed.key), reason=str(error))
            return None, "archive"
        return found, None


async def _comes(feed: StreamFeed, seq: int, seconds: float) -> bool:
    """Whether the head is at `seq`, or comes there in time."""
    try:
        async with asyncio.timeout(seconds):
            while (head := feed.replica.head) is not None and head.seq < seq:
                await feed.moved.wait()
    except TimeoutError:
        return False
    return head is not None


def _continues(first: StreamRecord | None, position: Position) -> bool:
    """Whether nothing stands between `position` and this record, the first after it."""
    if first is None or first.unreadable is not None or first.position.epoch != position.epoch:
        return False
    return (first.prev or 0) <= position.seq


def _for_seek(position: Position) -> Position:
    # Brokers know real positions only; what is not after `position` is left out when reading.
    return Position(position.epoch, position.seq) if position.sub == LAST_SUB else position
