"""One record's way through the platform as spans, for a sample of the records.

The ingestor decides by chance which record is traced; the decision travels with it in the message
headers (W3C `traceparent`), so the services behind only look whether there is one. Off, `ACTIVE` is
None and a hot path pays one comparison. Spans of one tick, each the parent of the next:

    ingest > publish raw > normalize > publish tick > fan out       (a gateway)
                                                    > fold > write row   (the snapshotter)

A `publish` span ends when the broker has stored the record.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from services.common.subjects import StreamKey

TRACEPARENT = "traceparent"
_W3C = TraceContextTextMapPropagator()


@dataclass(slots=True, eq=False)
class Tracing:
    """Makes spans. There is one in a process that traces."""

    _tracer: Tracer  # of an SDK that samples whatever is begun here
    _ratio: float  # which part of the records is traced, 0 to 1
    _chance: Callable[[], float] = random.random  # uniform in [0, 1)

    def chosen(self) -> bool:
        """Whether the record at hand is to be traced; every call is a new throw."""
        return self._chance() < self._ratio

    def begin(
        self,
        name: str,
        key: StreamKey,
        seq: int,
        *,
        parent: Span | Mapping[str, str] | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        shard: int | None = None,
        start_us: int | None = None,
    ) -> Span:
        """A span about one record. The caller ends it.

        `parent` is a span of this process or the headers of a message; without one, or where the
        headers hold no trace, a trace begins. `start_us`: µs since the Unix epoch, None is now.
        """
        attributes: dict[str, str | int] = {**key._asdict(), "seq": seq}
        if shard is not None:
            attributes["shard"] = shard
        start = time.time_ns() if start_us is None else start_us * 1000
        return self._tracer.start_span(
            name, _context(parent), kind=kind, attributes=attributes, start_time=start
        )


# Set once, before a service does anything.
ACTIVE: Tracing | None = None


def install(tracing: Tracing | None) -> None:
    """Trace from now on, or no longer."""
    global ACTIVE  # noqa: PLW0603 - one for a process, as the SDK's own provider is
    ACTIVE = tracing


def headers_of(span: Span) -> dict[str, str]:
    """What makes whoever gets the message go on with this trace."""
    carrier: dict[str, str] = {}
    _W3C.inject(carrier, trace.set_span_in_context(span))
    return carrier


def exemplar_of(span: Span) -> dict[str, str]:
    """Links a histogram's observation to the trace it was made in."""
    return {"trace_id": f"{span.get_span_context().trace_id:032x}"}


def _context(parent: Span | Mapping[str, str] | None) -> Context:
    if isinstance(parent, Span):
        return trace.set_span_in_context(parent, Context())
    return _W3C.extract(parent or {}, Context())
