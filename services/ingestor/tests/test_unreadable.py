"""Messages that nobody can read, in the middle of a running feed: what each costs, and no more."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
import pytest

from services.common.stream import Broker
from services.common.stream.memory.broker import MemoryBroker
from services.common.subjects import INVALID_SUBJECT
from services.common.wire import Parked, RawRecord, StatusBody
from services.ingestor.app import Ingestor
from services.ingestor.streams import BookStream, ProductStreams
from services.ingestor.testing import check_books, eventually, raw_records, running
from tools.simulator import SimulatedExchange

PRODUCTS = ("BTC-USD", "ETH-USD")


@pytest.fixture
async def exchange() -> AsyncIterator[SimulatedExchange]:
    async with SimulatedExchange(products=PRODUCTS, paced=False) as one:
        yield one


@pytest.fixture
async def broker() -> AsyncIterator[Broker]:
    async with MemoryBroker() as one:
        yield one


def streams_of(ingestor: Ingestor, product: str) -> ProductStreams:
    return next(feed.products[product] for feed in ingestor.feeds if product in feed.products)


def book_of(ingestor: Ingestor, product: str) -> BookStream:
    book = streams_of(ingestor, product).book
    assert isinstance(book, BookStream)
    return book


async def joined(ingestor: Ingestor) -> None:
    await eventually(
        lambda: (
            bool(ingestor.feeds)
            and all(
                book_of(ingestor, product).based
                and not book_of(ingestor, product).suspect
                and all(
                    stream.state.value != "down" for stream in streams_of(ingestor, product).all
                )
                for product in PRODUCTS
            )
        )
    )


def causes(records: list[RawRecord]) -> list[str]:
    return [
        msgspec.json.decode(record.body)["cause"]
        for record in records
        if record.kind in ("resync", "gap")
    ]


def states(records: list[RawRecord]) -> list[str]:
    return [
        msgspec.json.decode(record.body, type=StatusBody).state
        for record in records
        if record.kind == "status"
    ]


async def parked(broker: Broker) -> list[Parked]:
    page = await broker.read(INVALID_SUBJECT)
    return [msgspec.json.decode(message.payload, type=Parked) for message in page.messages]


@pytest.mark.parametrize("kind", ["bad_size", "bad_price"])
async def test_a_book_update_nobody_can_read_is_parked_and_the_book_has_a_new_base_at_once(
    broker: Broker, exchange: SimulatedExchange, kind: str
) -> None:
    async with running(broker, exchange.ws_url, exchange.rest_url, *PRODUCTS) as ingestor:
        await joined(ingestor)
        before = book_of(ingestor, "BTC-USD").resyncs
        exchange.control(
            odd={kind: {"count": 1, "types": ["l2update"], "products": ["BTC-USD"]}},
        )
        exchange.advance(1)
        await eventually(lambda: book_of(ingestor, "BTC-USD").resyncs > before)
        exchange.control(clear=True)
        exchange.advance(2)
        await eventually(lambda: not book_of(ingestor, "BTC-USD").suspect)
        assert book_of(ingestor, "ETH-USD").gaps == 0
        await check_books(broker, exchange, PRODUCTS)
        await ingestor.flushed()
        records = await raw_records(broker, "book", "BTC-USD")
        assert causes(records)[-1] == "invalid_message"
        assert states(records)[-2:] == ["resyncing", "live"]
        # The frame itself is where people look for it, and in no book.
        assert not any(b"0.-10000" in bytes(one.body) for one in records if one.kind != "status")
        assert any("0.-10000" in one.original for one in await parked(broker))


async def test_a_trade_nobody_can_read_is_fetched(
    broker: Broker, exchange: SimulatedExchange
) -> None:
    async with running(broker, exchange.ws_url, exchange.rest_url, *PRODUCTS) as ingestor:
        await joined(ingestor)
        exchange.control(
            odd={"bad_size": {"count": 3, "types": ["match"], "products": ["BTC-USD"]}},
        )
        exchange.advance(4)
        trades = streams_of(ingestor, "BTC-USD").trades
        assert trades is not None
        await eventually(lambda: trades.refilled >= 3 and not trades.healing)
        assert trades.lost == 0
        await ingestor.flushed()
        records = await raw_records(broker, "trades", "BTC-USD")
        assert not any(b"0.-10000" in bytes(one.body) for one in records if one.kind != "status")
        frames = [record.seq for record in records if record.kind == "frame"]
        assert frames == list(range(frames[0], frames[-1] + 1))
        assert causes(records) == []
        # Nothing was lost on the way, so the book is trusted.
        assert book_of(ingestor, "BTC-USD").gaps == 0


async def test_snapshots_that_nobody_can_read_in_part_cost_those_rows_only(
    broker: Broker, exchange: SimulatedExchange
) -> None:
    exchange.control(odd={"bad_size": {"probability": 1.0, "types": ["snapshot"]}})
    async with running(broker, exchange.ws_url, exchange.rest_url, *PRODUCTS) as ingestor:
        await joined(ingestor)
        assert [book_of(ingestor, product).gaps for product in PRODUCTS] == [0, 0]
