"""What the brokers do alike: they own what was opened on them, and end it with themselves."""

from __future__ import annotations

from abc import abstractmethod
from contextlib import AsyncExitStack
from typing import Any, NamedTuple

from services.common.errors import BrokerClosed
from services.common.stream.broker import (
    Broker,
    GroupSubscription,
    LiveSubscription,
    OnRefused,
    Publisher,
)
from services.common.stream.publisher_base import PublisherBase, PublisherOptions
from services.common.stream.storing import Storing, storing
from services.common.stream.worker import Subscription, Worker


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
    ) -> Publisher:
        return self._own(self._publisher(PublisherOptions(max_records, max_bytes, on_refused)))

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
