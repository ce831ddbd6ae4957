"""A running ingestor on given servers, and reading what it wrote."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from prometheus_client import CollectorRegistry

from services.common.observability.health import Health
from services.common.runtime import Stop
from services.common.stream.broker import Broker
from services.common.subjects import StreamKey, raw_subject
from services.common.wire import RawRecord, decode_raw
from services.ingestor.app import Ingestor
from services.ingestor.metrics import Metrics
from services.ingestor.settings import Settings


@contextlib.asynccontextmanager
async def running(
    broker: Broker, ws_url: str, rest_url: str, *products: str, **settings: Any
) -> AsyncIterator[Ingestor]:
    """An ingestor that runs while the block does, and stops cleanly after it.

    A market that moves only when told to sends no heartbeats in between, however long a busy
    machine takes. So silence says nothing here, unless a test sets its thresholds.
    """
    health = Health("ingestor", "broker", "feed")
    ingestor = Ingestor(
        Settings(
            coinbase_ws_primary=ws_url,
            coinbase_rest_url=rest_url,
            coinbase_products=products or ("BTC-USD", "ETH-USD"),
            **{
                "coinbase_ws_fallback": None,
                "heartbeat_suspect_ms": 600_000,
                "heartbeat_dead_ms": 600_000,
                **settings,
            },
        ),
        broker,
        Metrics(CollectorRegistry()),
        health,
    )
    stop = Stop()
    async with asyncio.TaskGroup() as group:
        group.create_task(ingestor.run(stop), name="ingestor")
        try:
            yield ingestor
        finally:
            stop.request("the test is over")


async def raw_records(broker: Broker, channel: str, product: str) -> list[RawRecord]:
    """Everything the raw log holds of a stream, in order."""
    subject = raw_subject(StreamKey("coinbase", channel, product))
    records: list[RawRecord] = []
    cursor = ""
    while True:
        page = await broker.read(subject, cursor)
        records += [decode_raw(message.payload) for message in page.messages]
        cursor = page.cursor
        if page.at_head:
            return records
