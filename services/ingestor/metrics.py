"""The ingestor's metrics (names as in the contract, section 7).

What happens rarely is counted by prometheus-client objects; what happens per message is counted by
plain integers where it happens and read at scrape time (`feed_metrics.py`), which costs the hot
path nothing.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from services.common.observability.event_loop import LoopMetrics
from services.common.observability.metrics import (
    STAGE_RAW,
    STAGE_VENUE,
    STORE_SECONDS,
    Bounded,
    makers,
    new_registry,
    prepare,
    retention_gauge,
    storing_metrics,
)
from services.common.observability.statistics import Figure
from services.common.subjects import StreamKey

STREAM = ("venue", "channel", "product")
# Close codes are the peer's choice: the usual ones get a series each, the rest share one.
_REASONS = 32
_OUTCOMES = ("refilled", "late", "snapshot", "open", "lost")
_LATE = ("found", "denied", "expired")
_DROPS = ("broker_away", "queue_full", "reordered")
_MALFORMED = (
    "bad_json",
    "bad_field",
    "bad_decimal",
    "bad_side",
    "missing_field",
    "implausible_number",
)
# Of our own records: the log can never hold them.
_REFUSED = ("record_too_large", "record_refused")

STATISTICS = {
    "messages_per_s": Figure("md_ingest_messages_total", "rate"),
    "gaps": Figure("md_seq_gap_total", "sum"),
    "resyncs": Figure("md_resync_total", "sum"),
    "dropped": Figure("md_messages_dropped_total", "sum"),
    "reconnects": Figure("md_ingest_reconnect_total", "sum"),
    "worst_stream_state": Figure("md_stream_state", "max"),
    "publish_ms": Figure("md_broker_publish_seconds", "mean_ms"),
    "loop_lag_max_s": Figure("md_event_loop_lag_max_seconds", "max"),
}


class Metrics:
    """Implements `StreamEvents`."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        registry = self.registry = new_registry() if registry is None else registry
        self.loop = LoopMetrics(registry)
        counter, _, histogram = makers(registry)
        self._reason = Bounded(_REASONS)
        self._gaps = counter(
            "md_seq_gap", "Holes found in what the venue sent.", (*STREAM, "cause", "stage")
        )
        self._resyncs = counter("md_resync", "Resyncs that ended.", (*STREAM, "outcome"))
        self._resync_seconds = histogram(
            "md_resync_seconds",
            "From the first sign of loss to a proven stream.",
            ("venue", "channel"),
            buckets=STORE_SECONDS,
        )
        self._late = counter(
            "md_late_trades",
            "Trades of announced gaps that were found later, or given up, by outcome.",
            (*STREAM, "outcome"),
        )
        self._dropped = counter(
            "md_messages_dropped",
            "New messages that were not passed on.",
            ("venue", "channel", "reason"),
        )
        self._invalid = counter(
            "md_invalid", "Messages parked because of their form.", ("reason", "stage")
        )
        prepare(self._invalid, (*_MALFORMED, *_REFUSED), (STAGE_VENUE,))
        self._reconnects = counter(
            "md_ingest_reconnect", "Connections lost, by reason.", ("venue", "reason")
        )
        self._audits = counter(
            "md_book_audit", "Books compared with the venue's REST book, by outcome.", ("outcome",)
        )
        self._suspicions = counter(
            "md_book_suspicion", "Books that a ticker, a trade or their own two sides contradicted."
        )
        self.publish_seconds, self.unconfirmed_seconds = storing_metrics(
            registry, STAGE_RAW, "From offering a record to its durability (sampled)."
        )
        self.retention_cut = retention_gauge(registry)

    def prepare(self, key: StreamKey) -> None:
        """Show a stream's counters from its beginning."""
        self._resync_seconds.labels(key.venue, key.channel)
        for outcome in _OUTCOMES:
            self._resyncs.labels(*key, outcome)
        self._gaps.labels(*key, "gap", STAGE_VENUE)
        if key.channel == "trades":
            for outcome in _LATE:
                self._late.labels(*key, outcome)
        for reason in _DROPS:
            self._dropped.labels(key.venue, key.channel, reason)

    def invalid(self, reason: str) -> None:
        """A message was parked."""
        self._invalid.labels(reason, STAGE_VENUE).inc()

    def reconnected(self, venue: str, reason: str) -> None:
        """A connection was lost."""
        self._reconnects.labels(venue, self._reason(reason)).inc()

    def audited(self, outcome: str) -> None:
        """A book was compared with REST."""
        self._audits.labels(outcome).inc()

    def suspected(self) -> None:
        """Something contradicts a book; it is compared with REST at once."""
        self._suspicions.inc()

    def gap_found(self, key: StreamKey, cause: str) -> None:
        self._gaps.labels(*key, cause, STAGE_VENUE).inc()

    def resynced(self, key: StreamKey, outcome: str, seconds: float) -> None:
        self._resyncs.labels(*key, outcome).inc()
        self._resync_seconds.labels(key.venue, key.channel).observe(seconds)

    def late(self, key: StreamKey, outcome: str, count: int) -> None:
        self._late.labels(*key, outcome).inc(count)

    def dropped(self, key: StreamKey, reason: str, count: int) -> None:
        self._dropped.labels(key.venue, key.channel, reason).inc(count)
