"""Pages of the logs, read once for all who need them.

Clients that lost their gateway, or their network, come back together and hold the same positions.
Where a window no longer reaches, each of them wants the same pages of the same log; the broker
reads each once, and for a while everybody gets it from here.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from services.common.errors import PositionLost
from services.common.stream import Broker, Position
from services.gateway.chain.stream_record import StreamRecord
from services.gateway.streams.record_reader import RecordReader

_RECORDS = 500
_MAX_BYTES = 32 * 1024 * 1024
_MAX_PLACES = 4096
# How often a subject's places are forgotten at most: many may ask for it together.
_FORGET_S = 1.0
# What a record costs beside its payload, roughly.
_OVERHEAD = 250


class LogPage(NamedTuple):
    """Records in the log's order, where to go on, and whether the log's head was reached."""

    records: Sequence[StreamRecord]
    cursor: str
    at_head: bool


@dataclass(slots=True)
class _Reading:
    """A page that somebody reads now."""

    done: asyncio.Event = field(default_factory=asyncio.Event)
    page: LogPage | None = None


class LogPageCache:
    """See the module's docstring.

    A page that does not reach the head never changes while the log keeps what it has, and is kept;
    one that does is shared only with those who asked while it was read.

    Raises BrokerUnavailable where the log has to be asked and does not answer.
    """

    def __init__(
        self,
        broker: Broker,
        records: RecordReader,
        max_bytes: int = _MAX_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._broker = broker
        self._records = records
        self._max_bytes = max_bytes
        self._bytes = 0
        self._held: OrderedDict[tuple[str, str], LogPage] = OrderedDict()
        self._reading: dict[tuple[str, str], _Reading] = {}
        # Cursors of positions whose pages do not reach the head.
        self._places: OrderedDict[tuple[str, Position], str] = OrderedDict()
        self._clock = clock
        self._forgotten: dict[str, float] = {}

    async def after(self, subject: str, cursor: str) -> LogPage:
        """The page that follows a cursor; PositionLost: it expired, and the page is not held."""
        key = (subject, cursor)
        while (held := self._held.get(key)) is None:
            reading = self._reading.get(key)
            if reading is None:
                return await self._read(key)
            await reading.done.wait()
            if reading.page is not None:
                return reading.page
        self._held.move_to_end(key)
        return held

    async def after_position(self, subject: str, position: Position) -> LogPage:
        """The page in which the first record after a position stands.

        Raises:
            PositionLost: what followed was dropped between two questions; ask again.
        """
        place = (subject, position)
        cursor = self._places.get(place)
        if cursor is None:
            cursor = await self._broker.seek(subject, position)
        try:
            page = await self.after(subject, cursor)
        except PositionLost:
            self._places.pop(place, None)
            raise
        if not page.at_head:
            self._places[place] = cursor
            self._places.move_to_end(place)
            if len(self._places) > _MAX_PLACES:
                self._places.popitem(last=False)
        return page

    def forget(self, subject: str) -> None:
        """Other records may stand in this subject's places by now: the log lost its end."""
        now = self._clock()
        if now - self._forgotten.get(subject, float("-inf")) < _FORGET_S:
            return
        self._forgotten[subject] = now
        for place in [place for place in self._places if place[0] == subject]:
            del self._places[place]
        for key in [key for key in self._held if key[0] == subject]:
            self._bytes -= _cost(self._held.pop(key))

    async def _read(self, key: tuple[str, str]) -> LogPage:
        reading = self._reading[key] = _Reading()
        try:
            subject, cursor = key
            page = await self._broker.read(subject, cursor, limit=_RECORDS)
            records = self._records.read(page.messages)
            found = reading.page = LogPage(records, page.cursor, page.at_head)
        finally:
            del self._reading[key]
            reading.done.set()
        if not found.at_head:
            self._keep(key, found)
        return found

    def _keep(self, key: tuple[str, str], page: LogPage) -> None:
        self._held[key] = page
        self._bytes += _cost(page)
        while self._bytes > self._max_bytes:
            _, oldest = self._held.popitem(last=False)
            self._bytes -= _cost(oldest)


def _cost(page: LogPage) -> int:
    return sum(record.size + _OVERHEAD for record in page.records)
