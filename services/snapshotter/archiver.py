"""Archives one log: collects records into a batch and writes it when it is due."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import structlog

from services.common.errors import StoreError
from services.common.runtime import patiently
from services.common.stores.aws import S3
from services.common.stores.index import Head
from services.common.subjects import StreamKey
from services.snapshotter import metrics
from services.snapshotter.batch import Batch, SealedBatch
from services.snapshotter.s3 import ArchiveLog

log = structlog.get_logger(__name__)

OnArchived = Callable[[Mapping[str, Head], int], Awaitable[None]]


@dataclass(eq=False)
class Archiver:
    """One per log. Whoever feeds it sets `on_archived` before `run`.

    While S3 is away the batch grows; the pump that feeds it stops at its byte bound.
    """

    _name: str
    _archive: ArchiveLog
    _batch: Batch
    on_ok: Callable[[str], None]
    on_error: Callable[[StoreError], None]
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _draining: bool = False
    # Told how far each stream of a written batch goes, and how many of its bytes were refilled.
    on_archived: OnArchived | None = None

    def __post_init__(self) -> None:
        self._kind = "raw" if self._name == "raw" else "ticks"

    async def restore(self) -> Mapping[str, Head]:
        """How far each stream is archived already; waits for S3 as long as it takes."""
        return await patiently(self._archive.restore, StoreError, self.on_error)

    def add(
        self, key: StreamKey, shard: int, head: Head, ts: int, payload: bytes, *, refilled: bool
    ) -> None:
        """Take a record into the current batch."""
        before = self._batch.due_at()
        self._batch.add(key, shard, head, ts, payload, time.monotonic(), refilled=refilled)
        if self._batch.due_at() != before:
            self._wake.set()

    def drain(self) -> None:
        """Write what is held without waiting for the period; then `run` returns."""
        self._draining = True
        self._wake.set()

    async def run(self) -> None:
        """Write batches until drained."""
        while True:
            self._wake.clear()
            due = self._batch.due_at()
            if due is not None and (self._draining or due <= time.monotonic()):
                await self._write(self._batch.seal())
                continue
            if self._draining:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if due is None else due - time.monotonic()):
                    await self._wake.wait()

    async def _write(self, batch: SealedBatch) -> None:
        async def write() -> int:
            started = time.monotonic()
            size = await self._archive.write(batch)
            metrics.WRITE_SECONDS.labels("archive").observe(time.monotonic() - started)
            return size

        size = await patiently(write, StoreError, self.on_error)
        metrics.BATCHES.labels(self._kind).inc()
        metrics.BYTES.labels(self._kind).inc(size)
        metrics.RECORDS.labels(self._kind).inc(batch.count)
        log.debug("batch_archived", log=self._name, records=batch.count, bytes=size)
        self.on_ok(S3)
        if self.on_archived is not None:
            await self.on_archived(batch.heads, batch.refilled)
