"""Books from every order's messages, `full` or `level3`, against the simulated exchange."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

import msgspec
import pytest

from services.common.domain.book import Book
from services.common.stream.memory.broker import MemoryBroker
from services.common.wire import ResyncBody
from services.ingestor.app import Ingestor
from services.ingestor.streams import OrdersStream, TradesStream
from services.ingestor.testing import eventually, folded, raw_records, running, true_book
from tools.simulator import SimulatedExchange
from tools.simulator.protocol.auth import Credentials

PRODUCTS = ("BTC-USD", "ETH-USD")
KEY = Credentials()
# `full` has the trades as well; rows of `level3` do not name them.
SOURCES = {
    "full": ("full", "heartbeat", "ticker"),
    "level3": ("level3", "matches", "heartbeat", "ticker"),
}
by_source = pytest.mark.parametrize("source", SOURCES)


@pytest.fixture
async def exchange() -> AsyncIterator[SimulatedExchange]:
    async with SimulatedExchange(products=PRODUCTS, paced=False) as exchange:
        yield exchange


def by_order(
    broker: MemoryBroker, exchange: SimulatedExchange, channels: Sequence[str], **settings: Any
) -> AbstractAsyncContextManager[Ingestor]:
    return running(
        broker,
        exchange.ws_url,
        exchange.rest_url,
        *PRODUCTS,
        **{
            "coinbase_channels": tuple(channels),
            "coinbase_api_key": KEY.key,
            "coinbase_api_secret": KEY.secret,
            "coinbase_api_passphrase": KEY.passphrase,
            # What waits is refilled however long a busy machine takes for the answers.
            "resync_max_queue_ms": 60_000,
            **settings,
        },
    )


def streams(ingestor: Ingestor, product: str) -> tuple[TradesStream, OrdersStream]:
    streams = next(feed.products[product] for feed in ingestor.feeds if product in feed.products)
    assert isinstance(streams.trades, TradesStream)
    assert isinstance(streams.book, OrdersStream)
    return streams.trades, streams.book


async def based(ingestor: Ingestor, exchange: SimulatedExchange) -> None:
    """All books have a base; the market moves on meanwhile, since a base needs its messages."""

    def all_based() -> bool:
        if ingestor.feeds and all(streams(ingestor, product)[1].based for product in PRODUCTS):
            return True
        exchange.advance(0.2)
        return False

    await eventually(all_based, "a base for each book", 30, every=0.05)


def home(ingestor: Ingestor, exchange: SimulatedExchange) -> bool:
    for product in PRODUCTS:
        trades, book = streams(ingestor, product)
        state = exchange.state(product)
        assert state.last_trade is not None
        if trades.writer.seq != state.last_trade.trade_id or trades.healing:
            return False
        if book.suspect or book.sequence != state.sequence:
            return False
    return True


async def check(broker: MemoryBroker, exchange: SimulatedExchange) -> None:
    for product in PRODUCTS:
        records = await raw_records(broker, "trades", product)
        seqs = [record.seq for record in records if record.kind == "frame"]
        assert seqs == list(range(seqs[0], seqs[-1] + 1))
        assert [record for record in records if record.kind == "gap"] == []
        truth = true_book(exchange, product)
        await eventually(partial(_holds, broker, product, truth), "the whole book in the log")


async def _holds(broker: MemoryBroker, product: str, truth: Book) -> bool:
    """Whether the log has it; the last records may still be on their way there."""
    return folded(await raw_records(broker, "book", product)) == truth


def heard(ingestor: Ingestor) -> int:
    return sum(streams(ingestor, product)[1].messages for product in PRODUCTS)


def gaps(ingestor: Ingestor) -> int:
    return sum(streams(ingestor, product)[1].gaps for product in PRODUCTS)


@by_source
async def test_the_book_comes_from_a_contiguous_sequence_and_no_trade_is_missing(
    broker: MemoryBroker, exchange: SimulatedExchange, source: str
) -> None:
    async with by_order(broker, exchange, SOURCES[source]) as ingestor:
        await based(ingestor, exchange)
        exchange.advance(5)
        await eventually(lambda: home(ingestor, exchange), "all home")
        await check(broker, exchange)
        assert all(streams(ingestor, product)[1].gaps == 0 for product in PRODUCTS)
    book = await raw_records(broker, "book", "BTC-USD")
    frames = [record for record in book if record.kind == "frame"]
    assert all(record.changes for record in frames)
    assert all(sequence_of(record.body) == record.seq for record in frames)
    assert {bytes(record.body)[:1] for record in frames} == {b"{" if source == "full" else b"["}
    trades = await raw_records(broker, "trades", "BTC-USD")
    assert all(record.changes is None for record in trades)


def sequence_of(body: msgspec.Raw) -> int:
    """Of the venue's own message, whichever form it has."""
    message = msgspec.json.decode(body)
    return int(message[2] if isinstance(message, list) else message["sequence"])


@by_source
async def test_lost_messages_of_orders_are_found_by_number_and_the_book_is_the_models(
    broker: MemoryBroker, exchange: SimulatedExchange, source: str
) -> None:
    async with by_order(broker, exchange, SOURCES[source]) as ingestor:
        await based(ingestor, exchange)
        exchange.control(
            drop={"probability": 0.01},
            duplicate={"probability": 0.02},
            reorder={"probability": 0.02, "by": 2},
        )
        for _ in range(4):
            before = heard(ingestor)
            exchange.advance(1)
            # What nobody read is lost with the connection, which numbers tell nothing of.
            await eventually(lambda: heard(ingestor) > before, "some of it")  # noqa: B023 - awaited here
            (feed,) = ingestor.feeds
            lost = feed.reconnects
            exchange.control(disconnect={})
            # Before it knows, its books are still based, and what comes next is lost with the rest.
            await eventually(lambda: feed.reconnects > lost, "a lost connection")  # noqa: B023 - awaited here
            await based(ingestor, exchange)

        async def found() -> bool:
            if not gaps(ingestor):
                exchange.advance(0.2)
            return gaps(ingestor) > 0

        await eventually(found, "a gap")
        exchange.control(clear=True)
        exchange.advance(3)
        await eventually(lambda: home(ingestor, exchange), "all home")
        await check(broker, exchange)


@by_source
async def test_an_image_of_a_cache_is_asked_for_again_until_it_reaches_what_waits(
    broker: MemoryBroker, exchange: SimulatedExchange, source: str
) -> None:
    async with by_order(broker, exchange, SOURCES[source]) as ingestor:
        await based(ingestor, exchange)
        exchange.advance(1)
        await eventually(lambda: home(ingestor, exchange), "all home")
        exchange.control(stale_rest_s=1.5)
        kind = "open" if source == "full" else "level3"
        exchange.control(drop={"count": 1, "types": [kind], "products": ["BTC-USD"]})
        exchange.advance(2)
        await eventually(lambda: home(ingestor, exchange), "all home")
        await check(broker, exchange)
        assert streams(ingestor, "BTC-USD")[1].gaps == 1
        assert streams(ingestor, "ETH-USD")[1].gaps == 0


def _trusted(ingestor: Ingestor, exchange: SimulatedExchange) -> bool:
    """Whether all books are, whatever they are made of; if not, the market moves on."""
    if ingestor.feeds and all(
        streams.book is not None and not streams.book.suspect
        for streams in ingestor.feeds[0].products.values()
    ):
        return True
    exchange.advance(0.2)
    return False


async def test_another_numbering_of_the_book_begins_another_epoch(
    broker: MemoryBroker, exchange: SimulatedExchange
) -> None:
    for channels in (
        ("level2_batch", "matches"),
        ("full",),
        # The same numbers as those of `full`.
        ("level3", "matches"),
        ("level2_batch", "matches"),
    ):
        async with by_order(broker, exchange, channels) as ingestor:
            await eventually(partial(_trusted, ingestor, exchange), "trusted books", 30, every=0.05)
            exchange.advance(1)
    records = await raw_records(broker, "book", "BTC-USD")
    epochs = list(dict.fromkeys(record.epoch for record in records))
    assert len(epochs) == 3
    assert epochs == sorted(epochs)
    causes = [
        (epochs.index(record.epoch), msgspec.json.decode(record.body, type=ResyncBody).cause)
        for record in records
        if record.kind == "resync"
    ]
    assert causes == [(0, "start"), (1, "start"), (1, "start"), (2, "start")]
