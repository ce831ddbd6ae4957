"""Spans leave the process by OTLP over HTTP, in batches.

A module of its own: what it imports is loaded only where traces are exported, and the check that
every module can be imported in every image still finds it.
"""

from __future__ import annotations

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace.export import BatchSpanProcessor


def batches_to(endpoint: str) -> BatchSpanProcessor:
    """A processor that sends to the collector at `endpoint` (its base, without `/v1/traces`)."""
    return BatchSpanProcessor(OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces"))
