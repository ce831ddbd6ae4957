"""A record's trace goes on from the raw log to the tick log."""

from __future__ import annotations

from collections.abc import Mapping

from opentelemetry.trace import Span, SpanKind

from services.common.observability.tracing import Tracing, headers_of
from services.common.stream import Message
from services.common.subjects import StreamKey

_HEADERS = ("traceparent", "tracestate")


def trace_context(message: Message) -> dict[str, str] | None:
    """The headers that carry a trace from hop to hop."""
    headers = message.headers
    return {name: headers[name] for name in _HEADERS if name in headers} or None


def traced(
    active: Tracing, key: StreamKey, shard: int, seq: int, headers: Mapping[str, str], began: int
) -> tuple[dict[str, str], Span]:
    """Headers that go on with the raw record's trace, and the span of publishing its tick.

    `began`: when work on the record did, µs.
    """
    done = active.begin(
        "normalize",
        key,
        seq,
        parent=headers,
        kind=SpanKind.CONSUMER,
        shard=shard,
        start_us=began,
    )
    span = active.begin("publish tick", key, seq, parent=done, kind=SpanKind.PRODUCER, shard=shard)
    done.end()
    return headers_of(span), span
