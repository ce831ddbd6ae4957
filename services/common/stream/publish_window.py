"""What a publisher holds: records taken and not let go of yet, who waits for them, what it counts.

Every publisher's window obeys the same rules, so they stand here once. Tickets are 1, 2, 3, ... in
the order taken. Records leave in that order, so the horizon says of every ticket whether it is
done. The window is bounded in records and bytes, and takes one larger record alone. It waits
for nothing itself; callers wait on its futures.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import structlog

from services.common.errors import RecordRefused
from services.common.stream.broker import OnRefused
from services.common.stream.records import InFlight, PublisherStats, Record
from services.common.subjects import is_pulse

log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class PublishWindow[T: InFlight]:
    """The records of one publisher that are under way."""

    _max_records: int  # B2
    _max_bytes: int  # B2
    _clock: Callable[[], float]  # seconds; only differences count
    # Whether another writer may take this one's place at any time.
    replaceable: bool = False
    items: deque[T] = field(default_factory=deque)  # oldest first
    taken: int = 0  # the newest ticket
    horizon: int = 0  # the newest ticket that is done, and all before it
    stored: int = 0
    duplicates: int = 0
    retried: int = 0
    lost: int = 0
    refused: int = 0
    # Why nothing is stored at the moment, as the server or the connection said it; None once
    # something was stored again.
    trouble: str | None = None
    _bytes: int = 0
    _moved: bool = False
    _moved_at: float = 0.0
    _waiting: list[tuple[int, int, asyncio.Future[None]]] = field(default_factory=list)
    _waits: int = 0

    def __len__(self) -> int:
        return len(self.items)

    def has_room(self, size: int) -> bool:
        """Whether a record of `size` bytes is taken now."""
        items = self.items
        return not items or (
            len(items) < self._max_records and self._bytes + size <= self._max_bytes
        )

    def add(self, item: T) -> int:
        """Hold a record; answers its ticket."""
        self.taken = item.ticket = self.taken + 1
        item.taken_at = self._clock()
        self.items.append(item)
        self._bytes += item.size
        return item.ticket

    def pop_oldest(self) -> T:
        """The oldest record is done. Call `wake_done` when all that are done were let go of."""
        item = self.items.popleft()
        self._bytes -= item.size
        self._moved = True
        if item.ticket > 0:
            self.horizon = item.ticket
        return item

    def wake_done(self) -> None:
        """Wake who waits for what is done."""
        if not self._moved:
            return
        self._moved = False
        self._moved_at = self._clock()
        self.trouble = None
        waiting, horizon = self._waiting, self.horizon
        while waiting and waiting[0][0] <= horizon:
            waiter = heapq.heappop(waiting)[2]
            if not waiter.done():
                waiter.set_result(None)

    async def done(self, ticket: int) -> None:
        """Return once everything up to `ticket` is done; raises what `end` was given."""
        if ticket <= self.horizon:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waits += 1
        heapq.heappush(self._waiting, (ticket, self._waits, waiter))
        await waiter

    def end(self, why: Callable[[], Exception]) -> None:
        """Nothing more gets done: each who waits is told why."""
        for _, _, waiter in self._waiting:
            if not waiter.done():
                waiter.set_exception(why())
        self._waiting.clear()

    def stalled_s(self) -> float:
        """For how long the oldest record has been the one that is waited for; 0 without any.

        Seconds since it was taken or since the one before it was done, whichever is later: so it
        is small while a long backlog is being stored.
        """
        if not self.items:
            return 0.0
        return max(0.0, self._clock() - max(self.items[0].taken_at, self._moved_at))

    def say_lost(self, name: str, records: Sequence[Record]) -> None:
        """These can no longer be stored in the log `name`; where they were taken, they are done."""
        self.lost += len(records)
        told = {
            "log": name,
            "records": len(records),
            "subject": records[0].subject,
            "first": records[0].position,
            "last": records[-1].position,
        }
        reason = "not in the log, and a newer record of the subject is"
        if self.replaceable or all(is_pulse(record.subject) for record in records):
            # What took its place is the other writer's; and a pulse that is old says nothing.
            log.warning("records_passed_by", **told, reason=reason)
        else:
            log.error("records_lost", **told, reason=reason)

    def say_refused(
        self, record: Record, error: RecordRefused, on_refused: OnRefused | None
    ) -> Record | None:
        """The server will never store this; answers what is to be stored in its place.

        Raises:
            RecordRefused: nobody is there to be told.
        """
        if on_refused is None:
            raise error
        self.refused += 1
        log.error(
            "record_refused",
            subject=record.subject,
            position=record.position,
            reason=error.reason,
        )
        return on_refused(record, error)

    def stats(self) -> PublisherStats:
        return PublisherStats(
            sent=self.taken,
            stored=self.stored,
            duplicates=self.duplicates,
            retried=self.retried,
            in_flight=len(self.items),
            bytes_in_flight=self._bytes,
            stalled_s=self.stalled_s(),
            trouble=self.trouble,
            lost=self.lost,
            refused=self.refused,
        )
