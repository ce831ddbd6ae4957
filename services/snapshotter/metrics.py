"""What the snapshotter counts."""

from __future__ import annotations

from services.common.observability.event_loop import LoopMetrics
from services.common.observability.metrics import STORE_SECONDS, makers, new_registry, prepare
from services.common.observability.statistics import Figure

REGISTRY = new_registry()
LOOP = LoopMetrics(REGISTRY)
_counter, _gauge, _histogram = makers(REGISTRY)
STATISTICS = {
    "rows_per_s": Figure("md_snapshot_rows_total", "rate"),
    "row_lag_ms": Figure("md_snapshot_lag_seconds", "mean_ms"),
    "write_ms": Figure("md_snapshot_write_seconds", "mean_ms"),
    "write_errors": Figure("md_snapshot_write_errors_total", "sum"),
    "archived_per_s": Figure("md_archive_records_total", "rate"),
    "held_bytes": Figure("md_snapshot_held_bytes", "sum"),
    "loop_lag_max_s": Figure("md_event_loop_lag_max_seconds", "max"),
}

WRITE_SECONDS = _histogram(
    "md_snapshot_write_seconds",
    "Time one write to a store took: row, checkpoint, or archive batch.",
    ["kind"],
    buckets=STORE_SECONDS,
)
WRITE_ERRORS = _counter(
    "md_snapshot_write_errors_total", "Writes that failed and are tried again.", ["kind"]
)
LAG_SECONDS = _histogram(
    "md_snapshot_lag_seconds",
    "From receiving a stream's newest folded record to its row being durable.",
    ["channel"],
    buckets=STORE_SECONDS,
)
ROWS = _counter(
    "md_snapshot_rows_total",
    "Row writes by outcome: written, or refused because a newer row was there.",
    ["outcome"],
)
CHECKPOINT_BYTES = _counter("md_snapshot_checkpoint_bytes_total", "Bytes of book checkpoints.")
BATCHES = _counter("md_archive_batches_total", "Archive batches committed.", ["kind"])
BYTES = _counter("md_archive_bytes_total", "Compressed bytes archived.", ["kind"])
RECORDS = _counter("md_archive_records_total", "Records archived.", ["kind"])
HELD_BYTES = _gauge(
    "md_snapshot_held_bytes", "Bytes of records that are not fully stored yet.", ["log"]
)
INVALID = _counter("md_snapshot_invalid_total", "Records that could not be read.", ["reason"])
CATCH_UPS = _counter(
    "md_snapshot_catch_ups_total",
    "Readings of the log to prove or restore order, by outcome.",
    ["outcome"],
)
BOOKS_WAITING = _gauge(
    "md_snapshot_books_waiting", "Books that are not whole and wait for their next reset."
)

prepare(WRITE_ERRORS, ("row", "checkpoint", "archive", "restore"))
prepare(ROWS, ("written", "refused"))
prepare(INVALID, ("undecodable", "unfoldable", "bad_subject"))
prepare(CATCH_UPS, ("read", "lost"))
