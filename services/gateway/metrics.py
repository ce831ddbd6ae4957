"""The gateway's metrics; names are part of the platform's contract."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import get_args

from prometheus_client import CollectorRegistry, Counter

from services.common.observability.event_loop import LoopMetrics
from services.common.observability.metrics import (
    FAST_SECONDS,
    STAGE_TICK,
    makers,
    new_registry,
    prepare,
)
from services.common.observability.statistics import Figure
from services.common.subjects import StreamKey
from services.gateway.chain.stream_record import Unreadable
from services.gateway.fanout.live_streams import StreamMetrics

_STREAM = ("venue", "channel")
_CLOSED = (
    *("client", "violation", "abuse", "ping_timeout", "slow_closed", "auth_required"),
    *("service_restart", "internal"),
)
_HTTP_REFUSED = (
    *("malformed", "too_large", "too_slow", "slow_reader", "over_queue", "connections"),
    *("key_guesses", "keyless", "address"),
)
# The codes that are the platform's fault and not the client's.
_FAILURES = ("6000", "6001", "6002")

STATISTICS = {
    "connections": Figure("md_ws_connections", "sum"),
    "subscriptions": Figure("md_ws_subscriptions", "sum"),
    "sent_per_s": Figure("md_ws_sent_total", "rate"),
    "conflated_per_s": Figure("md_ws_conflated_total", "rate"),
    "queue_bytes": Figure("md_ws_queue_bytes", "sum"),
    "end_to_end_ms": Figure("md_end_to_end_seconds", "mean_ms"),
    "gaps": Figure("md_seq_gap_total", "sum"),
    "errors": Figure("md_ws_errors_total", "sum"),
    "loop_lag_max_s": Figure("md_event_loop_lag_max_seconds", "max"),
}


class Metrics:
    """One set of them; without a registry given, on one of its own."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        registry = self.registry = new_registry() if registry is None else registry
        counter, gauge, histogram = makers(registry)
        seconds = partial(histogram, labelnames=_STREAM, buckets=FAST_SECONDS)
        self.loop = LoopMetrics(registry)
        self.connections = gauge("md_ws_connections", "Open WebSockets.")
        self.subscriptions = gauge("md_ws_subscriptions", "Subscriptions of all clients.", _STREAM)
        self.sent = counter("md_ws_sent_total", "Messages put on their way to clients.", _STREAM)
        self.conflated = counter(
            "md_ws_conflated_total", "Ticks that a later one stood for.", _STREAM
        )
        self.slow = counter("md_ws_slow_total", "Steps taken with slow clients.", ("action",))
        prepare(self.slow, ("catch_up", "recovered", "lost", "closed"))
        self.closed = counter("md_ws_closed_total", "WebSockets that ended.", ("reason",))
        prepare(self.closed, _CLOSED)
        self.queue_bytes = gauge("md_ws_queue_bytes", "Bytes waiting for all clients.")
        self.snapshot_seconds = seconds(
            "md_ws_snapshot_seconds",
            "From a subscription's arrival to its snapshot being on its way.",
        )
        self.backfill_seconds = seconds(
            "md_ws_backfill_seconds", "From a backfill's begin to its end."
        )
        self.backfill_ticks = counter(
            "md_ws_backfill_ticks_total", "Records sent to clients that catch up.", _STREAM
        )
        self.rate_limited = counter(
            "md_ws_rate_limited_total", "Commands or messages held.", ("scope",)
        )
        prepare(self.rate_limited, ("commands", "product", "keys"))
        self.errors = counter("md_ws_errors_total", "Errors told to clients.", ("code",))
        prepare(self.errors, _FAILURES)
        self.unknown_products = counter(
            "md_ws_unknown_products_total",
            "Products asked for that no log holds: read from the stores, known to be absent, or "
            "not read because too many were.",
            ("answer",),
        )
        prepare(self.unknown_products, ("asked", "remembered", "limited"))
        self.http_refused = counter(
            "md_http_refused_total",
            "Requests and HTTP connections that were refused or dropped.",
            ("reason",),
        )
        prepare(self.http_refused, _HTTP_REFUSED)
        self.end_to_end = seconds(
            "md_end_to_end_seconds", "From the ingestor's receipt to the socket write."
        )
        self.circuit = gauge(
            "md_circuit_state", "0 closed, 1 half open, 2 open: not asked for a while.", ("target",)
        )
        self.invalid = counter(
            "md_invalid_total",
            "Records of the tick log that could not be understood, each time one is read.",
            ("reason", "stage"),
        )
        prepare(self.invalid, get_args(Unreadable), (STAGE_TICK,))
        self.reader_breaks = counter(
            "md_live_reader_breaks_total",
            "Times the live reader of a shard's log broke, and another one was opened.",
            ("shard",),
        )
        self.snapshots_let_go = counter(
            "md_snapshots_let_go_total",
            "Framed snapshots let go for another depth (`SNAPSHOTS_KEPT`) before their stream went "
            "on.",
        )
        self.log_reads = gauge(
            "md_http_log_reads",
            "HTTP requests that read logs, or wait for one of `HTTP_LOG_READERS` places.",
        )
        self.pages_cut = counter(
            "md_http_pages_cut_total", "Answers of `/v1/ticks` that ended at `HTTP_PAGE_BYTES`."
        )
        self.stream_failures = counter(
            "md_stream_failures_total",
            "Streams that began anew because something in the gateway failed.",
        )
        self._age = gauge(
            "md_ws_data_age_seconds",
            "Age of what is served, by the receive time of the newest that came through; the "
            "oldest stream of each shard that is followed.",
            ("shard",),
        )
        self._ages: set[int] = set()
        self._stale = gauge(
            "md_ws_stale_streams", "Streams that are followed and older than `STALE_AFTER_MS`."
        )
        self._gaps = counter(
            "md_seq_gap_total",
            "Breaks of a stream's chain seen on the live tail and healed from the log.",
            ("venue", "channel", "product", "cause", "stage"),
        )

    def of_stream(self, key: StreamKey) -> StreamMetrics:
        """Those of the stream's venue and channel; `labels` takes a lock and builds a key."""
        metrics = (getattr(self, name) for name in StreamMetrics._fields)
        return StreamMetrics(*(metric.labels(key.venue, key.channel) for metric in metrics))

    def http_was_refused(self, reason: str) -> None:
        """A request or an HTTP connection was refused or dropped."""
        self.http_refused.labels(reason).inc()

    def freshness(self, ages: Mapping[int, int], stale: int) -> None:
        """What is served is so old (µs, by shard), and so many streams too old."""
        for shard in self._ages - ages.keys():
            # Nobody follows it any more.
            self._age.remove(shard)
        self._ages = set(ages)
        for shard, age in ages.items():
            self._age.labels(shard).set(age / 1e6)
        self._stale.set(stale)

    def gap(self, key: StreamKey, cause: str) -> None:
        """A break of the chain was seen on the live tail."""
        self._gaps.labels(*key, cause, STAGE_TICK).inc()


class FleetMetrics:
    """Of the process that keeps several workers; beside the workers' own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.restarts = Counter(
            "md_worker_restarts_total",
            "Worker processes that ended by themselves and were started again.",
            registry=self.registry,
        )
