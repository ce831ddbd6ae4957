"""What the brokers do alike: they own what was opened on them, and end it with themselves."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from contextlib import AsyncExitStack

from services.common.errors import BrokerClosed
from services.common.stream.broker import Broker, Publisher
from services.common.stream.storing import Storing, storing
from services.common.stream.worker import Worker


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

    @abstractmethod
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

    async def _joined[W: Worker](self, worker: W, joined: asyncio.Event) -> W:
        """Own a subscription, and wait until it is active.

        Raises:
            BrokerClosed, BrokerFailed: it ended before.
        """
        self._own(worker)
        try:
            while not joined.is_set():
                worker.check_open()
                await worker.changed.wait()
        except BaseException:
            # Whoever asked for it, and was cancelled, will not close it.
            await worker.aclose()
            raise
        return worker

    def storing(self) -> Storing:
        """From the publishers that are open."""
        held = (worker for worker in self._workers if not worker.ended)
        return storing(worker.stats() for worker in held if isinstance(worker, Publisher))
