"""The ingestor's metrics (names as in the contract, section 7).

What happens rarely is counted by prometheus-client objects; what happens per message is counted by
plain integers where it happens and read at scrape time (`FeedCollector`), which costs the hot
path nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.common.observability.event_loop import LoopMetrics
from services.common.observability.metrics import (
    FAST_SECONDS,
    STAGE_RAW,
    STAGE_VENUE,
    STORE_SECONDS,
    Bounded,
    makers,
    new_registry,
    prepare,
    retention_gauge,
)
from services.common.observability.statistics import Figure
from services.common.resilience.circuit_breaker import Circuit
from services.common.stream.storing import Storing
from services.common.subjects import StreamKey
from services.common.wire import StreamState
from services.ingestor.feed.stats import FeedStats, StreamStats

_STREAM = ("venue", "channel", "product")
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
# Gravest last, so that `>=` means "at least as bad as".
_STATES: dict[StreamState, int] = {"live": 0, "quiet": 1, "resyncing": 2, "stale": 3, "down": 4}


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
        counter, gauge, histogram = makers(registry)
        self._reason = Bounded(_REASONS)
        self._gaps = counter(
            "md_seq_gap", "Holes found in what the venue sent.", (*_STREAM, "cause", "stage")
        )
        self._resyncs = counter("md_resync", "Resyncs that ended.", (*_STREAM, "outcome"))
        self._resync_seconds = histogram(
            "md_resync_seconds",
            "From the first sign of loss to a proven stream.",
            ("venue", "channel"),
            buckets=STORE_SECONDS,
        )
        self._late = counter(
            "md_late_trades",
            "Trades of announced gaps that were found later, or given up, by outcome.",
            (*_STREAM, "outcome"),
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
        publish_seconds = histogram(
            "md_broker_publish_seconds",
            "From offering a record to its durability (sampled).",
            ("stage",),
            buckets=FAST_SECONDS,
        )
        self.publish_seconds = publish_seconds.labels(STAGE_RAW)
        unconfirmed = gauge(
            "md_broker_unconfirmed_seconds",
            "How long the oldest record given to the broker has waited to be stored; 0 for none.",
            ("stage",),
        )
        self.unconfirmed_seconds = unconfirmed.labels(STAGE_RAW)
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


class FeedCollector(Collector):
    """Reads the feeds' own counters and the circuits' states when Prometheus asks."""

    def __init__(
        self,
        feeds: Callable[[], Iterable[FeedStats]],
        circuits: Callable[[], Mapping[str, Circuit]],
        storing: Callable[[], Storing] = Storing,
    ) -> None:
        self._feeds = feeds
        self._storing = storing
        self._circuits = circuits

    def collect(self) -> Iterator[Metric]:
        messages = CounterMetricFamily(
            "md_ingest_messages", "Messages received.", labels=("venue", "feed")
        )
        ignored = CounterMetricFamily(
            "md_ingest_ignored",
            "Messages of a kind or product not known.",
            labels=("venue", "feed"),
        )
        connected = GaugeMetricFamily(
            "md_ingest_connected", "1 while data flows.", labels=("venue", "feed")
        )
        age = GaugeMetricFamily(
            "md_ingest_last_message_age_seconds",
            "Time since the last message.",
            labels=("venue", "feed"),
        )
        queue = GaugeMetricFamily(
            "md_ingest_queue_depth", "Messages waiting for a resync.", labels=("venue", "feed")
        )
        for feed in self._feeds():
            labels = (feed.venue, feed.name)
            messages.add_metric(labels, feed.messages)
            ignored.add_metric(labels, feed.ignored)
            connected.add_metric(labels, 1 if feed.connected else 0)
            if feed.last_message_age_s is not None:
                age.add_metric(labels, feed.last_message_age_s)
            queue.add_metric(labels, feed.queued)
        yield from (messages, ignored, connected, age, queue)
        yield from self._streams()
        circuits = GaugeMetricFamily(
            "md_circuit_state", "0 closed, 1 half open, 2 open.", labels=("target",)
        )
        for target, state in self._circuits().items():
            circuits.add_metric((target,), state.value)
        yield circuits

    def _streams(self) -> Iterator[Metric]:
        states = GaugeMetricFamily(
            "md_stream_state",
            "A stream's state: 0 live, 1 quiet, 2 resyncing, 3 stale, 4 down.",
            labels=_STREAM,
        )
        held = GaugeMetricFamily(
            "md_stream_state_seconds",
            "How long a stream's state has been what it is.",
            labels=_STREAM,
        )
        ages = GaugeMetricFamily(
            "md_stream_record_age_seconds",
            "Time since a stream's newest record was received.",
            labels=_STREAM,
        )
        missing = GaugeMetricFamily(
            "md_open_gap_trades",
            "Trades of announced gaps that are still asked for.",
            labels=_STREAM,
        )
        verified = GaugeMetricFamily(
            "md_book_verified_age_seconds",
            "Time since a level 2 book was last known to be right: a base, or an audit.",
            labels=_STREAM,
        )
        storing = self._storing()
        for feed in self._feeds():
            for key, count in feed.open_trades.items():
                missing.add_metric(key, count)
            for key, age_s in feed.verified_ages_s.items():
                verified.add_metric(key, age_s)
            for stream in feed.streams:
                state, age_s = _state_of(stream, storing)
                states.add_metric(stream.key, _STATES[state])
                held.add_metric(stream.key, age_s)
                if stream.record_age_s is not None:
                    ages.add_metric(stream.key, stream.record_age_s)
        yield from (states, held, ages, missing, verified)


def _state_of(stream: StreamStats, storing: Storing) -> tuple[StreamState, float]:
    """A stream's state and how long it has been so.

    While nothing is stored its readers are told nothing, so that it is `stale` at best; no record
    can say so, as that would not be stored either.
    """
    if storing.problem is None or _STATES[stream.state] >= _STATES["stale"]:
        return stream.state, stream.state_age_s
    return "stale", storing.stalled_s
