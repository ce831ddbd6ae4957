"""The normalizer's metrics; names are part of the platform's contract."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter

from services.common.observability.event_loop import LoopMetrics
from services.common.observability.metrics import (
    LINE_ACTIVE,
    STAGE_RAW,
    STAGE_TICK,
    makers,
    new_registry,
    prepare,
    retention_gauge,
    storing_metrics,
)
from services.common.observability.statistics import Figure
from services.common.sharding import shard_of
from services.common.subjects import StreamKey, key_of

# Why a record is refused: the codes of `Unmappable`, and what the broker would not take.
_REFUSALS = (
    *("bad_json", "bad_field", "bad_decimal", "bad_side", "bad_row", "bad_position", "bad_subject"),
    *("unexpected_type", "unknown_channel", "unknown_venue", "unknown_version", "wrong_position"),
    *("wrong_product", "wrong_subject", "record_too_large", "record_refused"),
)

STATISTICS = {
    "records_per_s": Figure("md_normalized_total", "rate"),
    "invalid": Figure("md_invalid_total", "sum"),
    "gaps": Figure("md_seq_gap_total", "sum"),
    "lag_records": Figure("md_shard_lag_messages", "max"),
    "lag_s": Figure("md_shard_lag_seconds", "max"),
    "publish_ms": Figure("md_broker_publish_seconds", "mean_ms"),
    "loop_lag_max_s": Figure("md_event_loop_lag_max_seconds", "max"),
}


class Metrics:
    """One set of them; without a registry given, on one of its own."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        registry = self.registry = new_registry() if registry is None else registry
        self.loop = LoopMetrics(registry)
        counter, gauge, _ = makers(registry)
        self.normalized = counter(
            "md_normalized_total", "Records given to the tick log.", ["venue", "channel", "shard"]
        )
        # Finding one by its labels takes longer than counting.
        self._of_subject: dict[str, Counter] = {}
        self._invalid = counter(
            "md_invalid_total",
            "Raw records, or rows of a snapshot, that were refused and parked.",
            ["reason", "stage"],
        )
        prepare(self._invalid, _REFUSALS, (STAGE_RAW,))
        self.duplicates = counter(
            "md_normalizer_duplicates_total",
            "Raw records at or before the position already held; redeliveries and the like.",
        )
        self._gaps = counter(
            "md_seq_gap_total",
            "Breaks of a stream's chain in the raw log, which nothing can heal.",
            ["venue", "channel", "product", "cause", "stage"],
        )
        self.catch_ups = counter(
            "md_normalizer_catch_ups_total",
            "Times a stream was read from the raw log, because what was delivered did not follow.",
        )
        self.line_active = gauge(*LINE_ACTIVE)
        self.lag_messages = gauge(
            "md_shard_lag_messages", "Raw records this group has not acknowledged yet.", ["shard"]
        )
        self.lag_seconds = gauge(
            "md_shard_lag_seconds",
            "Age of the newest raw record worked on while there is a lag, else 0.",
            ["shard"],
        )
        self.publish_seconds, self.unconfirmed_seconds = storing_metrics(
            registry, STAGE_TICK, "From a batch's first record taken to all its ticks durable."
        )
        self.retention_cut = retention_gauge(registry)

    def invalid(self, reason: str) -> None:
        """A record was refused and parked."""
        self._invalid.labels(reason, STAGE_RAW).inc()

    def gap(self, key: StreamKey, cause: str) -> None:
        """The raw log itself has a hole."""
        self._gaps.labels(*key, cause, STAGE_RAW).inc()

    def published(self, subjects: Iterable[str], shard_count: int) -> None:
        """A tick was published for each of `subjects`."""
        for subject, count in Tally(subjects).items():
            counter = self._of_subject.get(subject)
            if counter is None:
                key = key_of(subject)
                shard = shard_of(key.product, shard_count)
                counter = self.normalized.labels(key.venue, key.channel, shard)
                self._of_subject[subject] = counter
            counter.inc(count)
