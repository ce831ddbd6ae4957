"""The normalizer's metrics; names are part of the platform's contract."""

from __future__ import annotations

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram


class Metrics:
    """One set of them. A process has one on the default registry; a test may have many."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self.registry = registry
        self.normalized = Counter(
            "md_normalized_total",
            "Records given to the tick log.",
            ["venue", "channel", "shard"],
            registry=registry,
        )
        self.invalid = Counter(
            "md_invalid_total",
            "Raw records, or rows of a snapshot, that were refused and parked.",
            ["reason"],
            registry=registry,
        )
        self.duplicates = Counter(
            "md_normalizer_duplicates_total",
            "Raw records at or before the position already held; redeliveries and the like.",
            registry=registry,
        )
        self.gaps = Counter(
            "md_seq_gap_total",
            "Gaps of a stream, by what caused them.",
            ["cause", "channel"],
            registry=registry,
        )
        self.catch_ups = Counter(
            "md_normalizer_catch_ups_total",
            "Times a stream was read from the raw log, because what was delivered did not follow.",
            registry=registry,
        )
        self.lag_messages = Gauge(
            "md_shard_lag_messages",
            "Raw records this group has not acknowledged yet.",
            ["shard"],
            registry=registry,
        )
        self.lag_seconds = Gauge(
            "md_shard_lag_seconds",
            "Age of the newest raw record worked on while there is a lag, else 0.",
            ["shard"],
            registry=registry,
        )
        self.publish_seconds = Histogram(
            "md_broker_publish_seconds",
            "From a batch's first record taken to all its ticks durable.",
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
            registry=registry,
        )
