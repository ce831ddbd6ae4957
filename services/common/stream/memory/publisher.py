"""The memory publisher: stores what it took in the event loop's next turn."""

from __future__ import annotations

import asyncio

from services.common.errors import BrokerUnavailable, RecordTooLarge
from services.common.stream.broker_base import PublisherBase, PublisherOptions
from services.common.stream.memory.client import MemoryClient
from services.common.stream.records import InFlight, Record
from services.common.subjects import log_of


class MemoryPublisher(PublisherBase[InFlight]):
    """See `Publisher`. As it stores later, a window can fill and callers meet real waiting."""

    def __init__(self, client: MemoryClient, options: PublisherOptions) -> None:
        super().__init__(options, client.server.max_payload, clock=client.server.clock)
        self.server = client.server
        self._client = client
        self._due = False

    def _in_flight(self, record: Record) -> InFlight:
        self._limit = self.server.max_payload
        self._client.check_known(log_of(record.subject))
        return InFlight(record, len(record.payload))

    def _taken(self, _item: InFlight) -> None:
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._store)

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
            item = window.items[0]
            name = log_of(item.record.subject)
            log = self._client.log(name)
            while (size := len(item.record.payload)) > limit and not item.lost:
                self._give_up(item, RecordTooLarge(item.record.subject, size, limit))
            if item.lost:
                window.pop_oldest()
                continue
            record = item.record
            stored = log.append(record, now)
            window.pop_oldest()
            if stored:
                window.stored += 1
            elif log.had(record):
                window.duplicates += 1
            else:
                window.say_lost(name, [record])
