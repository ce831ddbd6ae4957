"""What the publishers do alike: what callers meet, in front of the sending."""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import NamedTuple

from services.common.errors import BrokerUnavailable, RecordRefused, RecordTooLarge
from services.common.stream.broker import OnRefused, Publisher
from services.common.stream.publish_window import PublishWindow
from services.common.stream.records import InFlight, LogSpec, Record, check_record
from services.common.stream.storing import PublisherStats
from services.common.stream.unsynced_records import UnsyncedRecords
from services.common.stream.worker import Worker, say_failed_try

# Windows of acknowledged records that are kept.
_KEPT_WINDOWS = 4
# For a log somebody else ensured.
_DEFAULT_RETENTION_S = 1200.0


def retention_s(specs: Mapping[str, LogSpec], name: str) -> float:
    """For how long a log is kept, as far as it is known here."""
    spec = specs.get(name)
    return _DEFAULT_RETENTION_S if spec is None else spec.retention_s


class PublisherOptions(NamedTuple):
    """What a publisher holds at most (B2), and who is told of what the server refuses."""

    max_records: int
    max_bytes: int
    on_refused: OnRefused | None


class PublisherBase[T: InFlight](Worker, Publisher):
    """A window in front, the records acknowledged of late behind.

    Args:
        options: as its broker was asked for it.
        limit: the largest record that the server takes, bytes, as far as it is known.
        clock: the window's seconds.
    """

    def __init__(
        self,
        options: PublisherOptions,
        limit: int,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__("publisher")
        max_records, max_bytes, self._on_refused = options
        self._limit = limit
        self._window = PublishWindow[T](max_records, max_bytes, clock)
        self._unsynced = UnsyncedRecords(_KEPT_WINDOWS * max_records, max_bytes)
        # Set when there is something to do.
        self._wake = asyncio.Event()

    async def send(self, record: Record) -> int:
        while (ticket := self.offer(record)) is None:
            await self.changed.wait()
        return ticket

    def offer(self, record: Record) -> int | None:
        if self.ended:
            self.check_open()
        check_record(record)
        item = self._in_flight(record)
        size = item.size
        if size > self._limit:
            raise RecordTooLarge(record.subject, size, self._limit)
        window = self._window
        if not window.has_room(size):
            return None
        ticket = window.add(item)
        self._taken(item)
        self._wake.set()
        return ticket

    @abstractmethod
    def _in_flight(self, record: Record) -> T:
        """The record as it is held and sent."""

    def _taken(self, item: T) -> None:
        """It is in the window."""

    async def durable(self, ticket: int) -> None:
        if ticket > self._window.horizon:
            self.check_open()
            await self._window.done(ticket)

    def stats(self) -> PublisherStats:
        return self._window.stats()

    def _give_up(self, item: T, error: RecordRefused) -> None:
        """The server will never store this; what stands in its place is to be sent instead.

        Raises:
            RecordRefused: nobody is there to be told.
        """
        instead: Record | None = None
        if not item.replaced:
            instead = self._window.say_refused(item.record, error, self._on_refused)
        if instead is None:
            item.lost = item.stored = True
        else:
            item.record, item.replaced = instead, True

    def _give_up_too_large(self) -> None:
        """Another server may take less than the one that was there before."""
        for item in self._window.items:
            if item.size > self._limit and not (item.stored or item.replaced):
                self._give_up(item, RecordTooLarge(item.record.subject, item.size, self._limit))

    def _say_interrupted(self, error: BrokerUnavailable, attempt: int) -> None:
        self._window.trouble = error.reason
        held = len(self._window)
        say_failed_try(
            attempt, "publisher_interrupted", reason=error.reason, in_flight=held, attempt=attempt
        )

    def _end(self) -> None:
        super()._end()
        self._window.end(self.why_ended)
