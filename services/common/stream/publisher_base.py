"""What the publishers do alike: what callers meet, in front of the sending."""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping

from services.common.stream.broker import OnRefused, Publisher
from services.common.stream.publish_window import Held, PublishWindow
from services.common.stream.records import LogSpec, Record
from services.common.stream.storing import PublisherStats
from services.common.stream.unsynced_records import UnsyncedRecords
from services.common.stream.worker import Worker

# Windows of acknowledged records that are kept.
_KEPT_WINDOWS = 4
# For a log somebody else ensured.
_DEFAULT_RETENTION_S = 1200.0


def retention_s(specs: Mapping[str, LogSpec], name: str) -> float:
    """For how long a log is kept, as far as it is known here."""
    spec = specs.get(name)
    return _DEFAULT_RETENTION_S if spec is None else spec.retention_s


class PublisherBase[T: Held](Worker, Publisher):
    """A window in front, the records acknowledged of late behind.

    Args:
        max_records: B2.
        max_bytes: B2.
        on_refused: see `OnRefused`.
        clock: the window's seconds.
    """

    def __init__(
        self,
        max_records: int,
        max_bytes: int,
        on_refused: OnRefused | None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__("publisher")
        self._on_refused = on_refused
        self._window = PublishWindow[T](max_records, max_bytes, clock)
        self._unsynced = UnsyncedRecords(_KEPT_WINDOWS * max_records, max_bytes)
        # Set when there is something to do.
        self._wake = asyncio.Event()

    async def send(self, record: Record) -> int:
        while (ticket := self.offer(record)) is None:
            await self.changed.wait()
        return ticket

    @abstractmethod
    def offer(self, record: Record) -> int | None: ...

    async def durable(self, ticket: int) -> None:
        if ticket > self._window.horizon:
            self.check_open()
            await self._window.done(ticket)

    def stats(self) -> PublisherStats:
        return self._window.stats()

    def _end(self) -> None:
        super()._end()
        self._window.end(self.why_ended)
