"""What the snapshotter counts."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from services.common.observability.event_loop import LoopMetrics
from services.common.observability.metrics import STORE_SECONDS, new_registry, prepare
from services.common.observability.statistics import Figure

REGISTRY = new_registry()
LOOP = LoopMetrics(REGISTRY)
STATISTICS = {
    "rows_per_s": Figure("md_snapshot_rows_total", "rate"),
    "row_lag_ms": Figure("md_snapshot_lag_seconds", "mean_ms"),
    "write_ms": Figure("md_snapshot_write_seconds", "mean_ms"),
    "write_errors": Figure("md_snapshot_write_errors_total", "sum"),
    "archived_per_s": Figure("md_archive_records_total", "rate"),
    "held_bytes": Figure("md_snapshot_held_bytes", "sum"),
    "loop_lag_max_s": Figure("md_event_loop_lag_max_seconds", "max"),
}

WRITE_SECONDS = Histogram(
    "md_snapshot_write_seconds",
    "Time one write to a store took: row, checkpoint, or archive batch.",
    ["kind"],
    buckets=STORE_SECONDS,
    registry=REGISTRY,
)
WRITE_ERRORS = Counter(
    "md_snapshot_write_errors_total",
    "Writes that failed and are tried again.",
    ["kind"],
    registry=REGISTRY,
)
LAG_SECONDS = Histogram(
    "md_snapshot_lag_seconds",
    "From receiving a stream's newest folded record to its row being durable.",
    ["channel"],
    buckets=STORE_SECONDS,
    registry=REGISTRY,
)
ROWS = Counter(
    "md_snapshot_rows_total",
    "Row writes by outcome: written, or refused because a newer row was there.",
    ["outcome"],
    registry=REGISTRY,
)
CHECKPOINT_BYTES = Counter(
    "md_snapshot_checkpoint_bytes_total", "Bytes of book checkpoints.", registry=REGISTRY
)
BATCHES = Counter(
    "md_archive_batches_total", "Archive batches committed.", ["kind"], registry=REGISTRY
)
BYTES = Counter("md_archive_bytes_total", "Compressed bytes archived.", ["kind"], registry=REGISTRY)
RECORDS = Counter("md_archive_records_total", "Records archived.", ["kind"], registry=REGISTRY)
HELD_BYTES = Gauge(
    "md_snapshot_held_bytes",
    "Bytes of records that are not fully stored yet.",
    ["log"],
    registry=REGISTRY,
)
INVALID = Counter(
    "md_snapshot_invalid_total", "Records that could not be read.", ["reason"], registry=REGISTRY
)
CATCH_UPS = Counter(
    "md_snapshot_catch_ups_total",
    "Readings of the log to prove or restore order, by outcome.",
    ["outcome"],
    registry=REGISTRY,
)
BOOKS_WAITING = Gauge(
    "md_snapshot_books_waiting",
    "Books that are not whole and wait for their next reset.",
    registry=REGISTRY,
)

prepare(WRITE_ERRORS, ("row", "checkpoint", "archive", "restore"))
prepare(ROWS, ("written", "refused"))
prepare(INVALID, ("undecodable", "unfoldable", "bad_subject"))
prepare(CATCH_UPS, ("read", "lost"))
