"""Writes one stream's row or checkpoint, as the stream is at that moment."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from opentelemetry.trace import SpanKind

from services.common.clock import now_us
from services.common.observability import tracing
from services.common.observability.tracing import exemplar_of
from services.common.stores.aws import DYNAMODB, S3
from services.snapshotter import metrics
from services.snapshotter.ddb import RowStore
from services.snapshotter.s3 import CheckpointStore
from services.snapshotter.stream import Stream


class RowWriter:
    """Latest rows. `on_stored` is told of a stream whose row is up to some position now."""

    def __init__(
        self,
        rows: RowStore,
        *,
        on_stored: Callable[[Stream], Awaitable[None]],
        on_ok: Callable[[str], None],
    ) -> None:
        self._rows = rows
        self._on_stored = on_stored
        self._on_ok = on_ok

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
        self._on_ok(DYNAMODB)
        await self._on_stored(stream)


class CheckpointWriter:
    """Whole books, and the rows that name them."""

    def __init__(
        self, checkpoints: CheckpointStore, rows: RowStore, *, on_ok: Callable[[str], None]
    ) -> None:
        self._checkpoints = checkpoints
        self._rows = rows
        self._on_ok = on_ok

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
        self._on_ok(S3)
        view.checkpoint = object_key
        if not view.dirty and view.stored is not None:
            # No later row is due that would name it.
            await self._rows.name_checkpoint(stream.key, view.stored, object_key)
        view.checkpointed = checkpoint.position
        await self._checkpoints.prune(stream.key, object_key)
