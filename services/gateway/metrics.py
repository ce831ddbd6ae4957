"""The gateway's metrics; names are part of the platform's contract."""

from __future__ import annotations

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_STREAM = ("venue", "channel")


class Metrics:
    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self.connections = Gauge("md_ws_connections", "Open WebSockets.", registry=registry)
        self.subscriptions = Gauge(
            "md_ws_subscriptions", "Subscriptions of all clients.", _STREAM, registry=registry
        )
        self.sent = Counter(
            "md_ws_sent_total", "Messages put on their way to clients.", _STREAM, registry=registry
        )
        self.conflated = Counter(
            "md_ws_conflated_total",
            "Ticks that a later one stood for.",
            _STREAM,
            registry=registry,
        )
        self.slow = Counter(
            "md_ws_slow_total", "Steps taken with slow clients.", ("action",), registry=registry
        )
        self.closed = Counter(
            "md_ws_closed_total", "WebSockets that ended.", ("reason",), registry=registry
        )
        self.queue_bytes = Gauge(
            "md_ws_queue_bytes", "Bytes waiting for all clients.", registry=registry
        )
        self.snapshot_seconds = Histogram(
            "md_ws_snapshot_seconds",
            "From a subscription's arrival to its snapshot being on its way.",
            _STREAM,
            buckets=_SECONDS,
            registry=registry,
        )
        self.backfill_seconds = Histogram(
            "md_ws_backfill_seconds",
            "From a backfill's begin to its end.",
            _STREAM,
            buckets=_SECONDS,
            registry=registry,
        )
        self.backfill_ticks = Counter(
            "md_ws_backfill_ticks_total",
            "Records sent to clients that catch up.",
            _STREAM,
            registry=registry,
        )
        self.rate_limited = Counter(
            "md_ws_rate_limited_total", "Commands or messages held.", ("scope",), registry=registry
        )
        self.errors = Counter(
            "md_ws_errors_total", "Errors told to clients.", ("code",), registry=registry
        )
        self.end_to_end = Histogram(
            "md_end_to_end_seconds",
            "From the ingestor's receipt to the socket write.",
            _STREAM,
            buckets=_SECONDS,
            registry=registry,
        )
        self.circuit = Gauge(
            "md_circuit_state",
            "0 closed, 1 open: not asked for a while.",
            ("target",),
            registry=registry,
        )
        self.gaps = Counter(
            "md_seq_gap_total",
            "Breaks of a stream's chain seen on the live tail and healed from the log.",
            ("venue", "channel", "product", "cause"),
            registry=registry,
        )


METRICS = Metrics()
