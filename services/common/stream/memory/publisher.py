"""The memory publisher: stores what it took in the event loop's next turn."""

from __future__ import annotations

import asyncio

import msgspec

from services.common.errors import BrokerUnavailable, RecordTooLarge
from services.common.stream.broker import OnRefused
from services.common.stream.memory.client import MemoryClient
from services.common.stream.publisher_base import PublisherBase
from services.common.stream.record_bounds import check_record
from services.common.stream.records import Record
from services.common.subjects import log_of


class InFlight(msgspec.Struct, gc=False, eq=False):
    """A record that was taken and is not stored yet."""

    record: Record
    size: int
    ticket: int = 0
    taken_at: float = 0.0


class MemoryPublisher(PublisherBase[InFlight]):
    """See `Publisher`. As it stores later, a window can fill and callers meet real waiting."""

    def __init__(
        self,
        client: MemoryClient,
        *,
        max_records: int,
        max_bytes: int,
        on_refused: OnRefused | None,
    ) -> None:
        super().__init__(max_records, max_bytes, on_refused, clock=client.server.clock)
        self.server = client.server
        self._client = client
        self._due = False

    def offer(self, record: Record) -> int | None:
        self.check_open()
        check_record(record)
        size = len(record.payload)
        if size > self.server.max_payload:
            raise RecordTooLarge(record.subject, size, self.server.max_payload)
        self._client.check_known(log_of(record.subject))
        if not self._window.has_room(size):
            return None
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._store)
        return self._window.add(InFlight(record, size))

    def _store(self) -> None:
        if self.ended:
            return
        try:
            self.append(self.server.clock())
            self._due = False
        except BrokerUnavailable as error:
            # It stays the oldest, and is tried first when there is something to store it in.
            self._window.trouble = error.reason
            self.server.when_changed(self._store)
        except Exception as error:  # noqa: BLE001 - whoever waits is told, as by a task
            self._window.wake_done()
            self.fail(error)
        self._window.wake_done()
        self.changed.ring()
        self.server.bell.ring()

    def append(self, now: float) -> None:
        """Store what was taken. Raises BrokerUnavailable when the oldest one's log is not there."""
        window = self._window
        limit = self.server.max_payload
        while window.items:
            record: Record | None = window.items[0].record
            assert record is not None
            name = log_of(record.subject)
            log = self._client.log(name)
            if len(record.payload) > limit:
                error = RecordTooLarge(record.subject, len(record.payload), limit)
                record = window.say_refused(record, error, self._on_refused)
                if record is None or len(record.payload) > limit:
                    window.pop_oldest()
                    continue
            stored = log.append(record, now)
            window.pop_oldest()
            if stored:
                window.stored += 1
            elif log.had(record):
                window.duplicates += 1
            else:
                window.say_lost(name, [record])
