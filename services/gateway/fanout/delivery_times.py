"""How long records took from the ingestor's receipt until they were written."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from opentelemetry.trace import SpanKind

from services.common.observability import tracing
from services.common.observability.tracing import exemplar_of
from services.gateway.chain.stream_record import StreamRecord
from services.gateway.fanout.live_streams import LiveStream


class DeliveryTimes:
    """Of the records that were published since the last write, by `micros`, the time of day."""

    __slots__ = ("_micros", "_newest", "_traced")

    def __init__(self, micros: Callable[[], int]) -> None:
        self._micros = micros
        self._newest: list[tuple[LiveStream, StreamRecord]] = []
        self._traced: list[tuple[LiveStream, StreamRecord]] = []

    def published(self, live_stream: LiveStream, records: Sequence[StreamRecord]) -> None:
        """These, at least one, are to be written to somebody."""
        self._newest.append((live_stream, records[-1]))
        if tracing.ACTIVE is not None:
            self._traced += [
                (live_stream, record) for record in records if record.trace is not None
            ]

    def written(self) -> None:
        """All that was published is written now: observe how long ago it was received."""
        if not self._newest:
            return
        now = self._micros()
        traces = self._end_traces() if self._traced else {}
        for live_stream, record in self._newest:
            if record.ts_ingest:
                live_stream.end_to_end.observe(
                    max(0, now - record.ts_ingest) / 1e6,
                    traces.get(live_stream) if traces else None,
                )
        self._newest.clear()

    def _end_traces(self) -> dict[LiveStream, dict[str, str]]:
        """Tell of traced records that were written; an exemplar for each of their streams."""
        exemplars: dict[LiveStream, dict[str, str]] = {}
        for live_stream, record in self._traced:
            if tracing.ACTIVE is None or record.trace is None:
                continue
            came, headers = record.trace
            span = tracing.ACTIVE.begin(
                "fan out",
                live_stream.key,
                record.position.seq,
                parent=headers,
                kind=SpanKind.CONSUMER,
                start_us=came,
            )
            span.set_attribute("clients", len(live_stream.subscriptions()))
            span.end()
            exemplars[live_stream] = exemplar_of(span)
        self._traced.clear()
        return exemplars
