"""One tick followed through four real processes and a real broker, over real OTLP."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from services.common.testing.waiting import eventually
from tests.stack_process import running_subscriber
from tools.dev.observability.collector import CollectedSpan, Collector
from tools.stack import Stack, StackOptions
from tools.stack.options import BrokerKind
from tools.subscriber import Subscriber, Want

pytestmark = pytest.mark.e2e

# Every span of a tick that reached a client and a row: who makes it, and whose child it is.
WAY = {
    "ingest": ("ingestor", None),
    "publish raw": ("ingestor", "ingest"),
    "normalize": ("normalizer", "publish raw"),
    "publish tick": ("normalizer", "normalize"),
    "fan out": ("gateway", "publish tick"),
    "fold": ("snapshotter", "publish tick"),
    "write row": ("snapshotter", "fold"),
}


def whole(traces: dict[str, list[CollectedSpan]]) -> list[CollectedSpan] | None:
    """The spans of a trace that went all the way."""
    for spans in traces.values():
        if {span.name for span in spans} == WAY.keys() and len(spans) == len(WAY):
            return spans
    return None


@pytest.mark.parametrize("broker", ["nats", "redis"])
async def test_one_tick_is_followed_from_the_venue_to_the_client_and_the_row(
    broker: BrokerKind, tmp_path: Path
) -> None:
    with Collector() as collector:
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
            "OTEL_TRACES_SAMPLER_ARG": "1",
            "OTEL_BSP_SCHEDULE_DELAY": "200",
        }
        options = StackOptions(
            products=("BTC-USD",),
            broker_kind=broker,
            run_dir=tmp_path,
            environment={"*": environment},
        )
        async with Stack(options) as stack:
            subscriber = Subscriber(stack.gateway_url, [Want("ticker", stack.products)])
            async with running_subscriber(subscriber):
                await eventually(lambda: whole(collector.traces()) is not None)
            async with httpx.AsyncClient(trust_env=False) as client:
                metrics = await client.get(
                    stack.url("gateway") + "/metrics",
                    headers={"accept": "application/openmetrics-text; version=1.0.0"},
                )
        spans = {span.name: span for span in whole(collector.traces()) or []}

    for name, (service, parent) in WAY.items():
        span = spans[name]
        assert span.service == service
        assert span.parent == ("" if parent is None else spans[parent].span_id), name
        assert span.attributes["venue"] == "coinbase"
        assert span.attributes["product"] == "BTC-USD"
        assert span.attributes["channel"] == spans["ingest"].attributes["channel"]
        assert span.start <= span.end
    assert len({span.trace_id for span in spans.values()}) == 1
    # The row may hold a later tick as well; every other span is of the same record.
    same = {name: span.attributes["seq"] for name, span in spans.items() if name != "write row"}
    assert len(set(same.values())) == 1
    assert spans["publish tick"].attributes["shard"] == spans["fold"].attributes["shard"]
    assert spans["fan out"].attributes["clients"] == 1
    # A slow bucket leads to a trace that was in it.
    buckets = [line for line in metrics.text.splitlines() if "md_end_to_end_seconds_bucket" in line]
    assert any('# {trace_id="' in line for line in buckets)
