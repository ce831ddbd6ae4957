"""What the snapshotter counts."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

WRITE_SECONDS = Histogram(
    "md_snapshot_write_seconds",
    "Time one write to a store took: row, checkpoint, or archive batch.",
    ["kind"],
    buckets=_SECONDS,
)
WRITE_ERRORS = Counter(
    "md_snapshot_write_errors_total", "Writes that failed and are tried again.", ["kind"]
)
LAG_SECONDS = Histogram(
    "md_snapshot_lag_seconds",
    "From receiving a stream's newest folded record to its row being durable.",
    ["channel"],
    buckets=_SECONDS,
)
ROWS = Counter(
    "md_snapshot_rows_total",
    "Row writes by outcome: written, or refused because a newer row was there.",
    ["outcome"],
)
CHECKPOINT_BYTES = Counter("md_snapshot_checkpoint_bytes_total", "Bytes of book checkpoints.")
BATCHES = Counter("md_archive_batches_total", "Archive batches committed.", ["kind"])
BYTES = Counter("md_archive_bytes_total", "Compressed bytes archived.", ["kind"])
RECORDS = Counter("md_archive_records_total", "Records archived.", ["kind"])
HELD_BYTES = Gauge(
    "md_snapshot_held_bytes", "Bytes of records that are not fully stored yet.", ["log"]
)
INVALID = Counter("md_snapshot_invalid_total", "Records that could not be read.", ["reason"])
CATCH_UPS = Counter(
    "md_snapshot_catch_ups_total",
    "Readings of the log to prove or restore order, by outcome.",
    ["outcome"],
)
BOOKS_WAITING = Gauge(
    "md_snapshot_books_waiting", "Books that are not whole and wait for their next reset."
)
