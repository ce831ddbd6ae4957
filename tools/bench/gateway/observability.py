"""What metrics and tracing cost on the gateway's hot path: CPU per record, with and without.

The way of a record through the gateway: read it from the log's message, push it to every client of
its stream, write. Sockets are left out, so the ratios are upper bounds. Variants take turns in
short rounds: whatever else this machine does falls on all of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from statistics import median
from typing import cast

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from prometheus_client import Counter, Histogram

from services.common.observability import tracing
from services.common.stream import Position, Record
from services.common.stream.memory.records import StoredRecord
from services.common.subjects import StreamKey, tick_subject
from services.common.wire import Fields, Level, Trade
from services.gateway.fanout.hub import Hub
from services.gateway.fanout.live_streams import LiveStream, Subscriber, SubscriptionListener
from services.gateway.fanout.outbox import PLAIN, Outbox
from services.gateway.fanout.push_batch import Turns
from services.gateway.fanout.subscription import Subscription
from services.gateway.metrics import Metrics
from services.gateway.streams.record_reader import RecordReader
from services.gateway.testing import Market
from tools.bench.registry import Run, bench

_KEY = StreamKey("coinbase", "ticker", "BTC-USD")
_SUBJECT = tick_subject(0, _KEY)
_TRACED_OF = 100
_AT_US = 1_700_000_000_000_000
_FIELDS = Fields(
    last_trade=Trade("43210.12", "0.00231", "buy", 1, _AT_US),
    best_bid=Level("43210.11", "0.5"),
    best_ask=Level("43210.13", "0.7"),
)


class _Nothing:
    """Stands for a metric that is not there."""

    def inc(self, amount: float = 1) -> None:
        pass

    def observe(self, amount: float, exemplar: object = None) -> None:
        pass


class _Message(StoredRecord):
    @property
    def headers(self) -> Mapping[str, str]:
        # As the adapters do it: their own headers are left out.
        return {k: v for k, v in self._headers.items() if not k.startswith("Nats-")}


class _Exporter(SpanExporter):
    """Encoding and the network belong to the exporter's own thread; what is left is the spans."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:  # noqa: ARG002 - the base's
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        pass


class _Client(Subscriber, SubscriptionListener):
    def __init__(self) -> None:
        super().__init__(Outbox(1 << 30), PLAIN, 0)
        self.subscriptions = self
        self.quick = True

    def _unexpected(self, *what: object, **named: object) -> None:
        raise AssertionError(what, named)

    flush = failed = _unexpected
    unsent = fell_behind = rebased = over_quota = within_quota = _unexpected

    @property
    def writable(self) -> bool:
        return True


class Variant:
    """One way to run the path. `traced_of`: one record in so many has a trace; 0 is none."""

    def __init__(self, name: str, clients: int, *, metrics: bool, traced_of: int | None) -> None:
        self.name = name
        self._flush: list[Callable[[], None]] = []
        self._hub = Hub(
            Turns(self._flush.append, lambda _when, _call: None, time.monotonic),
            lambda: time.time_ns() // 1000,
            # What a system call costs is left out.
            write=lambda _fd, frames: len(frames),
        )
        counted = Metrics()
        self._records = RecordReader(counted)
        self._live_stream = LiveStream(_KEY, counted.of_stream(_KEY))
        if not metrics:
            self._live_stream.sent = cast("Counter", _Nothing())
            self._live_stream.end_to_end = cast("Histogram", _Nothing())
        for _ in range(clients):
            self._hub.attach(Subscription(_Client(), self._live_stream), None)
        self.tracing: tracing.Tracing | None = None
        if traced_of is not None:
            provider = TracerProvider(shutdown_on_exit=False)
            provider.add_span_processor(BatchSpanProcessor(_Exporter()))
            self.tracing = tracing.Tracing(provider.get_tracer("cost"), 1.0)
        self._traced_of = traced_of or 0

    def messages(self, count: int) -> list[_Message]:
        """As they come from the broker."""
        market = Market(None, _KEY.product, _KEY.channel)
        market.clock = lambda: _AT_US
        found = []
        for seq in range(1, count + 1):
            payload = market.tick(_FIELDS, step=1).payload
            record = Record(_SUBJECT, payload, Position(1, seq), self._headers(seq))
            found.append(_Message(record, seq, f"1@{seq}", 0.0))
        return found

    def _headers(self, seq: int) -> dict[str, str]:
        identity = {"Nats-Msg-Id": f"{_KEY}:1:{seq}"}
        if self._traced_of and seq % self._traced_of == 0:
            identity[tracing.TRACEPARENT] = f"00-{seq:032x}-{seq:016x}-01"
        return identity

    def push(self, messages: Sequence[_Message]) -> None:
        for message in messages:
            self._hub.publish(self._live_stream, self._records.read([message]), Position(1, 1))
            self._flush.pop()()


@bench("observability", on_request=True)
async def observability(run: Run) -> None:
    """CPU for a record on the gateway's hot path, with and without metrics and tracing."""
    for clients in (1, 100, 1000):
        count = max(20, 500 // max(1, clients // 20))
        variants = [
            Variant("neither", clients, metrics=False, traced_of=None),
            Variant("metrics", clients, metrics=True, traced_of=None),
            Variant("metrics, tracing on", clients, metrics=True, traced_of=0),
            Variant("metrics, 1 % traced", clients, metrics=True, traced_of=_TRACED_OF),
            Variant("metrics, all traced", clients, metrics=True, traced_of=1),
        ]
        for variant in variants:
            variant.push(variant.messages(count))
        cases = {one: run.case(f"{clients} clients, {one.name}") for one in variants}
        for number in range(run.rounds):
            # Begun with another one each time, so that none is always first.
            for variant in islice(variants * 2, number % len(variants), number % len(variants) + 5):
                messages = variant.messages(count)
                tracing.install(variant.tracing)
                with run.measure(cases[variant].name) as sample:
                    sample.count = count
                    variant.push(messages)
                tracing.install(None)
        without = cases[variants[0]].samples
        for case in cases.values():
            # Round by round: what disturbed one of a pair disturbed the other.
            pairs = zip(case.samples, without, strict=True)
            ratio = median(mine.client_s / other.client_s for mine, other in pairs)
            run.note(case.name, f"x {ratio:.3f}")
