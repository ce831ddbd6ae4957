"""Metrics that are read from the feeds and circuits themselves when Prometheus asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.common.clock import now_us
from services.common.observability.metrics import LINE_ACTIVE
from services.common.resilience import Circuit
from services.common.stream.records import Storing
from services.common.wire import StreamState
from services.ingestor.cb_ws import Feed
from services.ingestor.metrics import STREAM
from services.ingestor.streams import BookStream
from services.ingestor.streams.stream import StreamStateTracker

# Gravest last, so that `>=` means "at least as bad as".
_STATES: dict[StreamState, int] = {"live": 0, "quiet": 1, "resyncing": 2, "stale": 3, "down": 4}


@dataclass(eq=False)
class FeedCollector(Collector):
    """`feeds`: those that run; the list may change."""

    _feeds: Sequence[Feed]
    _circuits: Callable[[], Mapping[str, Circuit]]
    _storing: Callable[[], Storing] = Storing
    _writes: Callable[[], bool] = lambda: True  # whether this ingestor does, or stands by

    def collect(self) -> Iterator[Metric]:
        yield from self._of_feeds()
        yield from self._of_streams()
        circuits = GaugeMetricFamily(
            "md_circuit_state", "0 closed, 1 half open, 2 open.", labels=("target",)
        )
        for target, state in self._circuits().items():
            circuits.add_metric((target,), state.value)
        yield circuits
        yield GaugeMetricFamily(*LINE_ACTIVE, 1 if self._writes() else 0)

    def _of_feeds(self) -> Iterator[Metric]:
        counter = partial(CounterMetricFamily, labels=("venue", "feed"))
        gauge = partial(GaugeMetricFamily, labels=("venue", "feed"))
        messages = counter("md_ingest_messages", "Messages received.")
        ignored = counter("md_ingest_ignored", "Messages of a kind or product not known.")
        connected = gauge("md_ingest_connected", "1 while data flows.")
        age = gauge("md_ingest_last_message_age_seconds", "Time since the last message.")
        queue = gauge("md_ingest_queue_depth", "Messages waiting for a resync.")
        for feed in self._feeds:
            labels = (feed.venue.name, feed.name)
            messages.add_metric(labels, feed.messages)
            ignored.add_metric(labels, feed.ignored)
            connected.add_metric(labels, 1 if feed.connected else 0)
            if feed.last_message_age_s is not None:
                age.add_metric(labels, feed.last_message_age_s)
            queue.add_metric(labels, feed.queued)
        yield from (messages, ignored, connected, age, queue)

    def _of_streams(self) -> Iterator[Metric]:
        gauge = partial(GaugeMetricFamily, labels=STREAM)
        states = gauge(
            "md_stream_state", "A stream's state: 0 live, 1 quiet, 2 resyncing, 3 stale, 4 down."
        )
        held = gauge("md_stream_state_seconds", "How long a stream's state has been what it is.")
        ages = gauge(
            "md_stream_record_age_seconds", "Time since a stream's newest record was received."
        )
        missing = gauge("md_open_gap_trades", "Trades of announced gaps that are still asked for.")
        verified = gauge(
            "md_book_verified_age_seconds",
            "Time since a level 2 book was last known to be right: a base, or an audit.",
        )
        now, storing = now_us(), self._storing()
        for streams in [each for feed in self._feeds for each in feed.products.values()]:
            for stream in streams.all:
                key, at = stream.writer.key, stream.writer.advanced_at
                state, age_s = shown_state(stream.state, now, storing)
                states.add_metric(key, _STATES[state])
                held.add_metric(key, age_s)
                if at:
                    ages.add_metric(key, max(0, now - at) / 1e6)
            trades, book = streams.trades, streams.book
            if trades is not None:
                missing.add_metric(trades.writer.key, trades.open.count)
            if isinstance(book, BookStream) and book.replica is not None and book.verified:
                verified.add_metric(book.writer.key, max(0, now - book.verified) / 1e6)
        yield from (states, held, ages, missing, verified)


def shown_state(state: StreamStateTracker, now: int, storing: Storing) -> tuple[StreamState, float]:
    """A stream's state `now` (µs), and for how many seconds it has been so.

    While nothing is stored its readers are told nothing, so that it is `stale` at best; no record
    can say so, as that would not be stored either.
    """
    if storing.problem is None or _STATES[state.value] >= _STATES["stale"]:
        return state.value, max(0, now - state.since) / 1e6
    return "stale", storing.stalled_s
