from __future__ import annotations

from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from services.common.observability import tracing
from services.common.observability.tracing import TRACEPARENT, Tracing, exemplar_of, headers_of
from services.common.subjects import StreamKey

KEY = StreamKey("coinbase", "ticker", "BTC-USD")


@pytest.fixture
def exporter() -> Iterator[InMemorySpanExporter]:
    made = InMemorySpanExporter()
    yield made
    tracing.install(None)


def tracer(exporter: InMemorySpanExporter, ratio: float, chances: list[float]) -> Tracing:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return Tracing(provider.get_tracer("test"), ratio, lambda: chances.pop(0))


def test_nothing_is_traced_unless_somebody_installs_it() -> None:
    assert tracing.ACTIVE is None


def test_the_ratio_decides_by_chance(exporter: InMemorySpanExporter) -> None:
    half = tracer(exporter, 0.5, [0.49, 0.5, 0.0, 0.99])
    assert [half.chosen() for _ in range(4)] == [True, False, True, False]
    assert not tracer(exporter, 0.0, [0.0]).chosen()
    assert tracer(exporter, 1.0, [0.999]).chosen()


def test_a_trace_goes_on_through_headers(exporter: InMemorySpanExporter) -> None:
    made = tracer(exporter, 1.0, [])
    first = made.begin("first", KEY, 7, start_us=1_700_000_000_000_000)
    headers = headers_of(first)
    assert headers.keys() == {TRACEPARENT}
    second = made.begin("second", KEY, 7, parent=headers, shard=3)
    second.end()
    first.end()
    child, root = exporter.get_finished_spans()
    assert child.parent is not None
    assert child.parent.span_id == root.context.span_id
    assert child.context.trace_id == root.context.trace_id
    assert root.start_time == 1_700_000_000_000_000_000
    assert dict(child.attributes or {}) == {
        "venue": "coinbase",
        "channel": "ticker",
        "product": "BTC-USD",
        "seq": 7,
        "shard": 3,
    }
    assert exemplar_of(second) == {"trace_id": f"{root.context.trace_id:032x}"}


def test_headers_that_hold_no_trace_begin_one(exporter: InMemorySpanExporter) -> None:
    made = tracer(exporter, 1.0, [])
    for headers in ({}, {TRACEPARENT: "nonsense"}):
        span = made.begin("alone", KEY, 1, parent=headers)
        span.end()
    assert [span.parent for span in exporter.get_finished_spans()] == [None, None]
