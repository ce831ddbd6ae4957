"""Runs a `Pacer`'s work: a bounded number at once, failures retried with backoff."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Hashable

from services.common.errors import StoreError
from services.common.resilience.backoff import Backoff
from services.snapshotter.pacing import RETRY_S, Concurrency, Pacer


class WriteScheduler[K: Hashable]:
    """Calls `work(item)` for changed items as the pacer allows.

    Args:
        period_s: each item at most this often.
        slots: how many at once, at most.
        work: writes the item as it is now; StoreError means "again later".
        on_error: told of each failure.
    """

    def __init__(
        self,
        period_s: float,
        slots: int,
        work: Callable[[K], Awaitable[None]],
        on_error: Callable[[StoreError], None],
    ) -> None:
        self._pacer: Pacer[K] = Pacer(period_s)
        self._concurrency = Concurrency(slots)
        self._work = work
        self._on_error = on_error
        self._backoffs: dict[K, Backoff] = {}
        self._wake = asyncio.Event()
        self._draining = False

    def changed(self, item: K, *, at_once: bool = False) -> None:
        self._pacer.changed(item, time.monotonic(), at_once=at_once)
        self._wake.set()

    def drain(self) -> None:
        """Write everything that waits without regard to the period; then `run` returns."""
        self._draining = True
        self._pacer.drain(time.monotonic())
        self._wake.set()

    async def run(self) -> None:
        """Until drained."""
        async with asyncio.TaskGroup() as group:
            while not (self._draining and self._pacer.idle):
                self._wake.clear()
                now = time.monotonic()
                for item in self._pacer.start_due(
                    now, self._concurrency.limit - self._pacer.running
                ):
                    group.create_task(self._do(item))
                await self._sleep(now)

    async def _sleep(self, now: float) -> None:
        due = self._pacer.next_due()
        full = self._pacer.running >= self._concurrency.limit
        delay = None if due is None or full else max(0.0, due - now)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await self._wake.wait()

    async def _do(self, item: K) -> None:
        started = time.monotonic()
        try:
            await self._work(item)
        except StoreError as error:
            self._concurrency.failed()
            self._on_error(error)
            backoff = self._backoffs.setdefault(item, Backoff(*RETRY_S))
            self._pacer.failed(item, time.monotonic(), backoff.next_delay())
        else:
            self._concurrency.finished(time.monotonic() - started)
            self._backoffs.pop(item, None)
            self._pacer.done(item, time.monotonic())
        # A slot is free, and the item may be due again.
        self._wake.set()
