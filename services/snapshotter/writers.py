"""Writes one stream's row or checkpoint, as the stream is at that moment, when a `Pacer` says so.

A bounded number at once, failures tried again with backoff.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass

from opentelemetry.trace import SpanKind

from services.common.clock import now_us
from services.common.errors import StoreError
from services.common.observability import tracing
from services.common.observability.tracing import exemplar_of
from services.common.resilience import Backoff
from services.common.stores.aws import DYNAMODB, S3
from services.snapshotter import metrics
from services.snapshotter.ddb import RowStore
from services.snapshotter.pacing import RETRY_S, Concurrency, Pacer
from services.snapshotter.s3 import CheckpointStore
from services.snapshotter.stream import Stream


class WriteScheduler[K: Hashable]:
    """Calls `work(item)` for changed items as the pacer allows."""

    def __init__(
        self,
        period_s: float,  # each item at most this often
        slots: int,  # how many at once, at most
        # Writes the item as it is now; StoreError means "again later".
        work: Callable[[K], Awaitable[None]],
        on_error: Callable[[StoreError], None],  # told of each failure
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


@dataclass(eq=False)
class RowWriter:
    """Latest rows. `on_stored` is told of a stream whose row is up to some position now."""

    _rows: RowStore
    on_stored: Callable[[Stream], Awaitable[None]]
    on_ok: Callable[[str], None]

    async def write(self, stream: Stream) -> None:
        """Write the stream's row if it is behind.

        Raises:
            StoreError: it was not written; nothing changed.
        """
        view = stream.view
        row = view.row(stream.shard, now_us()) if view is not None else None
        if view is None or row is None:
            return
        received = view.ts_ingest
        parent, stream.trace = stream.trace, None
        span = None
        if tracing.ACTIVE is not None and parent is not None:
            span = tracing.ACTIVE.begin(
                "write row",
                stream.key,
                row.position.seq,
                parent=parent,
                kind=SpanKind.CLIENT,
                shard=stream.shard,
            )
        started = time.monotonic()
        written = await self._rows.put(row)
        exemplar = None
        if span is not None:
            span.end()
            exemplar = exemplar_of(span)
        metrics.WRITE_SECONDS.labels("row").observe(time.monotonic() - started, exemplar)
        metrics.ROWS.labels("written" if written else "refused").inc()
        metrics.LAG_SECONDS.labels(stream.key.channel).observe(max(0, now_us() - received) / 1e6)
        newest = view.checkpoint
        if newest is not None and newest != row.checkpoint and view.fold.position == row.position:
            # It was written while this row was on its way, and no later row is due to name it.
            await self._rows.name_checkpoint(stream.key, row.position, newest)
        # Refused means that a newer row is there, which covers this one as well.
        view.written(row.position)
        self.on_ok(DYNAMODB)
        await self.on_stored(stream)


@dataclass(eq=False)
class CheckpointWriter:
    """Whole books, and the rows that name them."""

    _checkpoints: CheckpointStore
    _rows: RowStore
    on_ok: Callable[[str], None]

    async def write(self, stream: Stream) -> None:
        """Write the book's checkpoint if it changed since the last one.

        Raises:
            StoreError: it was not written, or the row could not be told of it.
        """
        view = stream.view
        checkpoint = view.changed_book(stream.shard, now_us()) if view is not None else None
        if view is None or checkpoint is None:
            return
        started = time.monotonic()
        object_key, size = await self._checkpoints.write(checkpoint)
        metrics.WRITE_SECONDS.labels("checkpoint").observe(time.monotonic() - started)
        metrics.CHECKPOINT_BYTES.inc(size)
        self.on_ok(S3)
        view.checkpoint = object_key
        if not view.dirty and view.stored is not None:
            # No later row is due that would name it.
            await self._rows.name_checkpoint(stream.key, view.stored, object_key)
        view.checkpointed = checkpoint.position
        await self._checkpoints.prune(stream.key, object_key)
