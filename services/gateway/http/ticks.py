"""`/v1/ticks`: a page of a stream's records after a position that the caller says it holds."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from services.common.errors import PositionLost
from services.common.stream import Broker, Position
from services.gateway.chain.stream_record import LAST_SUB, StreamRecord
from services.gateway.metrics import Metrics
from services.gateway.protocol import FUTURE_POSITION, Problem, epoch_changed, too_old
from services.gateway.streams.record_reader import RecordReader

_PAGE = 1000
# A caller may hold what was live elsewhere before it was stored: it is looked for so often.
_LOOKS = 10
_LOOK_S = 0.05


@dataclass(frozen=True, slots=True)
class TickPage:
    """Ticks and resets of one epoch, in order (None: the stream holds no record)."""

    records: list[StreamRecord]
    epoch: int | None
    at_head: bool


@dataclass
class TickPages:
    """Reads pages of ticks from the logs."""

    _broker: Broker
    _records: RecordReader
    _metrics: Metrics

    async def after(
        self, subject: str, from_seq: int, epoch: int | None, limit: int, max_bytes: int
    ) -> TickPage:
        """Up to `limit` records after `from_seq` (0: from the oldest retained) in the newest epoch.

        The first record that takes them beyond `max_bytes` is the last; whoever wants more goes on
        from where it ends.

        Raises:
            Problem: 4000, the numbering is no longer `epoch`'s; 4001, it is older than what is
                retained; 4002, the stream does not reach so far.
            BrokerUnavailable: the log does not answer.
        """
        newest = await self._newest(subject, from_seq, epoch)
        if epoch is not None and newest is not None and newest.epoch != epoch:
            raise epoch_changed(newest.epoch, newest.seq)
        if from_seq > (newest.seq if newest is not None else 0):
            head = newest.seq if newest is not None else None
            raise Problem(FUTURE_POSITION, f"the stream's head is {head}", head=head)
        if newest is None:
            return TickPage([], None, at_head=True)
        after = Position(newest.epoch, from_seq, LAST_SUB if from_seq else 0)
        found, at_head = await self._read(subject, after, limit, max_bytes)
        if found and from_seq and found[0].before.seq > from_seq:
            raise too_old(found[0].position.seq)
        return TickPage(found, newest.epoch, at_head)

    async def _newest(self, subject: str, from_seq: int, epoch: int | None) -> Position | None:
        """The position of the newest record, once it is `from_seq` or is not going to be."""
        for _ in range(_LOOKS):
            last = await self._broker.last(subject)
            newest = None if last is None else last.position
            if newest is None or newest.seq >= from_seq:
                break
            if epoch is not None and newest.epoch != epoch:
                break
            await asyncio.sleep(_LOOK_S)
        return newest

    async def _read(
        self, subject: str, after: Position, limit: int, max_bytes: int
    ) -> tuple[list[StreamRecord], bool]:
        cursor = await self._broker.seek(subject, Position(after.epoch, after.seq))
        found: list[StreamRecord] = []
        size = 0
        while True:
            try:
                page = await self._broker.read(subject, cursor, limit=min(_PAGE, limit + 10))
            except PositionLost:
                # It expired between two pages; what was found is whole and can be gone on from.
                return found[:limit], False
            for record in self._records.read(page.messages):
                if record.position.epoch != after.epoch and record.position > after:
                    # The numbering began anew meanwhile; the next call is told.
                    return found[:limit], len(found) <= limit
                if record.position > after and record.chained and record.unreadable is None:
                    found.append(record)
                    size += record.size
                if size > max_bytes:
                    self._metrics.pages_cut.inc()
                    return found[:limit], False
            cursor = page.cursor
            if page.at_head or len(found) >= limit:
                return found[:limit], page.at_head and len(found) <= limit
