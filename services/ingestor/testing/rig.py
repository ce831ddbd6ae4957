"""A running ingestor on given servers: what it wrote, and its books, to compare with the truth."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Sequence
from functools import partial
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry

from services.common.domain.book import Book
from services.common.observability.health import Health
from services.common.runtime import Stop
from services.common.stream import Broker
from services.common.subjects import StreamKey, raw_subject
from services.common.testing.conformance import read_all
from services.common.testing.waiting import eventually
from services.common.wire import RawRecord, decode_raw
from services.ingestor.app import Ingestor
from services.ingestor.metrics import Metrics
from services.ingestor.settings import Settings
from tools.simulator import SimulatedExchange


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
    return [decode_raw(message.payload) for message in await read_all(broker, subject)]


def folded(records: Iterable[RawRecord]) -> Book:
    """The book after these raw records of a book stream."""
    book = Book()
    for record in records:
        if record.kind == "resync":
            whole = msgspec.json.decode(record.body)["message"]
            book.replace(whole["bids"], whole["asks"])
        elif record.kind == "frame":
            book.apply(record.changes or msgspec.json.decode(record.body)["changes"])
    return book


def true_book(exchange: SimulatedExchange, product: str) -> Book:
    """The model's book now."""
    state = exchange.state(product)
    book = Book()
    book.replace([row[:2] for row in state.bids], [row[:2] for row in state.asks])
    return book


async def check_books(broker: Broker, exchange: SimulatedExchange, products: Sequence[str]) -> None:
    """The folded log equals the model's book, once every change was sent.

    The market must stand still (unpaced or paused).
    """
    exchange.settle()
    for product in products:
        await eventually(partial(_holds, broker, product, true_book(exchange, product)), "the book")


async def _holds(broker: Broker, product: str, truth: Book) -> bool:
    return folded(await raw_records(broker, "book", product)) == truth
