"""What the brokers and their publishers do alike.

Publishers have a window in front of the sending. Brokers own what was opened on them, and end it
with themselves.
"""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any, NamedTuple

from services.common.errors import BrokerClosed, BrokerUnavailable, RecordRefused, RecordTooLarge
from services.common.stream.broker import (
    Broker,
    GroupSubscription,
    LiveSubscription,
    OnRefused,
    Publisher,
)
from services.common.stream.holes import Predecessor
from services.common.stream.publish_window import PublishWindow
from services.common.stream.records import (
    InFlight,
    LogSpec,
    PublisherStats,
    Record,
    Storing,
    check_record,
    storing,
)
from services.common.stream.unsynced_records import UnsyncedRecords
from services.common.stream.worker import Subscription, Worker, say_failed_try

# Windows of acknowledged records that are kept.
_KEPT_WINDOWS = 4
# For a log somebody else ensured.
_DEFAULT_RETENTION_S = 1200.0


def retention_s(specs: Mapping[str, LogSpec], name: str) -> float:
    """For how long a log is kept, as far as it is known here."""
    spec = specs.get(name)
    return _DEFAULT_RETENTION_S if spec is None else spec.retention_s


class PublisherOptions(NamedTuple):
    """What a publisher holds at most (B2), who is told of what is refused, and who knows holes."""

    max_records: int
    max_bytes: int
    on_refused: OnRefused | None = None
    predecessor: Predecessor | None = None
    replaceable: bool = False


class PublisherBase[T: InFlight](Worker, Publisher):
    """A window in front, the records acknowledged of late behind."""

    def __init__(
        self,
        options: PublisherOptions,  # as its broker was asked for it
        limit: int,  # the largest record that the server takes, bytes, as far as it is known
        *,
        clock: Callable[[], float] = time.monotonic,  # the window's seconds
    ) -> None:
        super().__init__("publisher")
        max_records, max_bytes, self._on_refused, self._predecessor, replaceable = options
        self._limit = limit
        self._window = PublishWindow[T](max_records, max_bytes, clock, replaceable)
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


class GroupOptions(NamedTuple):
    """Which group of which log; B6 and B4."""

    log: str
    group: str
    max_pending: int
    ack_wait_s: float

    @property
    def what(self) -> str:
        return f"group {self.group} on {self.log}"


class GroupBase(Subscription, GroupSubscription):
    """A member that a broker can own."""


class LiveBase(Subscription, LiveSubscription):
    """A live subscription that a broker can own."""


class BrokerBase(Broker):
    """Owner of publishers, subscriptions, and the broker's own connections and background work."""

    def __init__(self) -> None:
        self._workers: list[Worker] = []
        self._closed = False

    async def aclose(self) -> None:
        self._closed = True
        async with AsyncExitStack() as closing:
            closing.push_async_callback(self._disconnect)
            # The newest first, as they stand on the older ones; and each, whatever befalls another.
            for worker in self._workers:
                closing.push_async_callback(worker.aclose)

    async def _disconnect(self) -> None:
        """Close what no worker is; after all workers."""

    def check_open(self) -> None:
        """Raise BrokerClosed when it was closed."""
        if self._closed:
            raise BrokerClosed

    def _own[W: Worker](self, worker: W) -> W:
        """Close it with the broker, and be told should it end before."""
        self._workers.append(worker)
        worker.when_ended(self._on_ended)
        return worker

    def _on_ended(self, worker: Worker) -> None:
        """A worker was closed or failed, which it has told its callers and the log.

        One that failed is owned until somebody closes it, as it may hold a connection.
        """
        if worker.closed and worker in self._workers:
            self._workers.remove(worker)

    async def _joined[S: Subscription](self, subscription: S) -> S:
        """Own a subscription, and wait until it is active.

        Raises:
            BrokerClosed, BrokerFailed: it ended before.
        """
        self._own(subscription)
        try:
            await subscription.until(subscription.joined.is_set)
        except BaseException:  # whoever asked for it, and was cancelled, will not close it
            await subscription.aclose()
            raise
        return subscription

    async def publisher(
        self,
        *,
        max_records: int = 4096,
        max_bytes: int = 32 * 1024 * 1024,
        on_refused: OnRefused | None = None,
        predecessor: Predecessor | None = None,
        replaceable: bool = False,
    ) -> Publisher:
        options = PublisherOptions(max_records, max_bytes, on_refused, predecessor, replaceable)
        return self._own(self._publisher(options))

    async def group(
        self, log: str, group: str, *, max_pending: int = 8192, ack_wait_s: float = 30.0
    ) -> GroupSubscription:
        await self.log_epoch(log)
        return await self._joined(self._group(GroupOptions(log, group, max_pending, ack_wait_s)))

    async def live(self, log: str) -> LiveSubscription:
        await self.log_epoch(log)
        return await self._joined(self._live(log))

    @abstractmethod
    def _publisher(self, options: PublisherOptions) -> PublisherBase[Any]:
        """Make one; raises BrokerClosed."""

    @abstractmethod
    def _group(self, options: GroupOptions) -> GroupBase:
        """Make a member; raises BrokerClosed."""

    @abstractmethod
    def _live(self, log: str) -> LiveBase:
        """Make one; raises BrokerClosed."""

    def storing(self) -> Storing:
        """From the publishers that are open."""
        held = (worker for worker in self._workers if not worker.ended)
        return storing(worker.stats() for worker in held if isinstance(worker, Publisher))
