"""The normalizer's metrics; names are part of the platform's contract."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

NORMALIZED = Counter(
    "md_normalized_total",
    "Records given to the tick log.",
    ["venue", "channel", "shard"],
)
INVALID = Counter(
    "md_invalid_total",
    "Raw records, or rows of a snapshot, that were refused and parked.",
    ["reason"],
)
DUPLICATES = Counter(
    "md_normalizer_duplicates_total",
    "Raw records at or before the position already held; redeliveries and second normalizers.",
)
BREAKS = Counter(
    "md_seq_gap_total",
    "Gaps of a stream, by what caused them.",
    ["cause", "channel"],
)
CATCH_UPS = Counter(
    "md_normalizer_catch_ups_total",
    "Times a stream was read from the raw log, because what was delivered did not follow.",
)
SHARD_LAG_MESSAGES = Gauge(
    "md_shard_lag_messages",
    "Raw records this group has not acknowledged yet.",
    ["shard"],
)
SHARD_LAG_SECONDS = Gauge(
    "md_shard_lag_seconds",
    "Age of the newest raw record worked on while there is a lag, else 0.",
    ["shard"],
)
PUBLISH_SECONDS = Histogram(
    "md_broker_publish_seconds",
    "From a batch's first record taken to all its ticks durable.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
