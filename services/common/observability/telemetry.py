"""Logs and traces, set up once by each service's `__main__`.

A log line is one JSON object (or a readable line on a terminal): an event name in the past tense
and its fields, `feed_reconnected attempt=3 delay_s=4.2`. Metrics live beside the code they count,
as prometheus-client objects in each service's `observability/metrics.py`.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from services.common.observability import tracing

NAMESPACE = "market-data-fanout"


def configure_logging(service: str, level: str, log_format: str) -> None:
    """Send structlog's and the standard library's records to standard error in one form."""
    console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _trace_ids,
    ]
    renderer: Any = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
        if console
        else structlog.processors.JSONRenderer()
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            renderer,
        ],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # These narrate every request, uvicorn with the query string and so with `?api_key=`; their
    # warnings and errors still come through.
    for noisy in ("uvicorn", "httpx", "httpcore", "botocore", "aiobotocore", "websockets"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        # A logger that was used once would keep this set-up for good, whatever is set up later.
        # Lines are rare, so nothing is gained by it.
        cache_logger_on_first_use=False,
    )
    structlog.contextvars.bind_contextvars(service=service)


def configure_tracing(
    service: str, endpoint: str | None, ratio: float = 1.0
) -> TracerProvider | None:
    """Export spans to `endpoint` by OTLP over HTTP; None leaves tracing off and free of cost.

    `ratio` of the records are followed through the platform
    (`services.common.observability.tracing`); what happens rarely, such as a resync, is always
    traced. The caller shuts the provider down before it exits, so that the last spans are sent.
    """
    if endpoint is None:
        return None
    # Its protocol buffers cost every process a fifth of its start; most export nothing.
    from services.common.observability.span_export import batches_to

    resource = Resource.create({"service.name": service, "service.namespace": NAMESPACE})
    # Chance is thrown where a trace begins, before a span is made; here everything is kept.
    provider = TracerProvider(sampler=ALWAYS_ON, resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(batches_to(endpoint))
    trace.set_tracer_provider(provider)
    tracing.install(tracing.Tracing(provider.get_tracer(NAMESPACE), ratio))
    return provider


def _trace_ids(_logger: Any, _name: str, event: dict[str, Any]) -> dict[str, Any]:
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        event["trace_id"] = f"{context.trace_id:032x}"
    return event
