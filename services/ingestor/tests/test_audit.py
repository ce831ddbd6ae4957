"""Books that lost an update without a trace, against the simulated exchange."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from services.common.stream.memory.broker import MemoryBroker
from services.common.subjects import StreamKey
from services.common.wire import ResyncBody
from services.ingestor.app import Ingestor
from services.ingestor.integrity.book_replica import BookReplica
from services.ingestor.integrity.sequencer import RULES, Sequencer
from services.ingestor.repair.book_audit import Auditor, Outcome
from services.ingestor.streams import BookStream
from services.ingestor.streams.raw_writer import RawStreamWriter
from services.ingestor.streams.stream import StreamStateTracker
from services.ingestor.testing import Counts, RawLog, eventually, raw_records, running
from services.ingestor.venues.base import BookImage, OrderImage, Quote, TradeRow, VenueRest
from tools.simulator import SimulatedExchange

PRODUCTS = ("BTC-USD", "ETH-USD", "SOL-USD")


def book_of(ingestor: Ingestor, product: str) -> BookStream:
    book = ingestor.feeds[0].products[product].book
    assert isinstance(book, BookStream)
    return book


def audits(ingestor: Ingestor, outcome: str) -> float:
    value = ingestor.registry.get_sample_value("md_book_audit_total", {"outcome": outcome})
    return value or 0.0


async def causes(broker: MemoryBroker, product: str) -> list[str]:
    return [
        msgspec.json.decode(record.body, type=ResyncBody).cause
        for record in await raw_records(broker, "book", product)
        if record.kind == "resync"
    ]


async def test_a_lost_update_that_leaves_no_trace_is_found_and_the_book_re_based(
    broker: MemoryBroker,
) -> None:
    async with (
        SimulatedExchange(products=PRODUCTS, rate=100, depth=60) as exchange,
        running(
            broker, exchange.ws_url, exchange.rest_url, *PRODUCTS, book_audit_period_ms=200
        ) as ingestor,
    ):
        await eventually(lambda: audits(ingestor, "passed") >= 3, "three audits")
        exchange.control(drop={"count": 8, "types": ["l2update"], "products": ["ETH-USD"]})
        await eventually(lambda: audits(ingestor, "mismatch") >= 1, "a mismatch")
        book = book_of(ingestor, "ETH-USD")
        await eventually(lambda: not book.suspect, "a new base")
        passed = audits(ingestor, "passed")
        await eventually(lambda: audits(ingestor, "passed") >= passed + 6, "audits pass again")
    assert "audit" in await causes(broker, "ETH-USD")
    assert await causes(broker, "BTC-USD") == ["start"]
    assert await causes(broker, "SOL-USD") == ["start"]


async def test_a_lively_market_and_a_caches_answers_are_never_an_alarm(
    broker: MemoryBroker,
) -> None:
    async with (
        # Dozens of updates of each book for every look at it. What a busy machine cannot follow it
        # can never compare either, as an image counts only once the feed has gone past it.
        SimulatedExchange(products=PRODUCTS, rate=200, depth=60) as exchange,
        running(
            broker, exchange.ws_url, exchange.rest_url, *PRODUCTS, book_audit_period_ms=150
        ) as ingestor,
    ):
        await eventually(lambda: audits(ingestor, "passed") >= 6, "six audits")
        before = audits(ingestor, "inconclusive")
        exchange.control(stale_rest_s=60)
        await eventually(lambda: audits(ingestor, "inconclusive") >= before + 2, "stale answers")
        exchange.control(clear=True)
        passed = audits(ingestor, "passed")
        await eventually(lambda: audits(ingestor, "passed") >= passed + 3, "more audits")
        assert audits(ingestor, "mismatch") == 0
    for product in PRODUCTS:
        assert await causes(broker, product) == ["start"]


async def test_pitfall_26_a_crossed_book_is_an_alarm_outside_an_auction_only(
    broker: MemoryBroker,
) -> None:
    async with (
        SimulatedExchange(products=("BTC-USD",), rate=100, depth=60) as exchange,
        running(
            broker, exchange.ws_url, exchange.rest_url, "BTC-USD", book_audit_period_ms=3_600_000
        ) as ingestor,
    ):
        await eventually(lambda: bool(ingestor.feeds), "a feed")
        book = book_of(ingestor, "BTC-USD")
        await eventually(lambda: not book.suspect, "a base")
        assert book.replica is not None
        # A bid far above every ask that the venue knows nothing of.
        book.replica.update(msgspec.json.encode({"changes": [("buy", "999999.00", "1")]}))
        await eventually(lambda: audits(ingestor, "crossed") == 1, "the crossing is seen")

        async def rebased() -> bool:
            return await causes(broker, "BTC-USD") == ["start", "crossed"]

        await eventually(rebased, "a new base")


class _Auction(VenueRest):
    """A venue in auction mode: what it says of its book is indicative."""

    backlog_s = 0.0

    async def tradable(self) -> Mapping[str, str | None]:
        return {}

    async def trades(
        self, product: str, first: int, last: int, *, background: bool = False
    ) -> Sequence[TradeRow]:
        return []

    async def ticker(self, product: str) -> Quote:
        return Quote(1, 1, b"{}")

    async def orders(self, product: str) -> OrderImage:
        return OrderImage(1, 1, "", [], [])

    async def book(self, product: str, *, background: bool = False) -> BookImage:
        return BookImage(10**18, 1, b'{"bids":[],"asks":[]}', auction=True)


async def test_pitfall_26_a_crossed_book_in_an_auction_is_no_alarm() -> None:
    log = RawLog()
    writer = RawStreamWriter(StreamKey("coinbase", "book", "BTC-USD"), "test", log.offer, epoch=1)
    stream = BookStream(
        writer,
        StreamStateTracker(writer, 1),
        Sequencer(RULES["book"]),
        lambda: None,
        Counts(),
        replica=BookReplica(),
    )
    stream.snapshot(5, b'{"bids":[["12","1"]],"asks":[["11","1"]]}', 5)
    outcomes: list[str] = []
    auditor = Auditor(_Auction(), list, 60.0, outcomes.append)
    assert await auditor.audit("BTC-USD", stream) is Outcome.AUCTION
    assert stream.replica is not None
    assert stream.replica.crossed
    assert not stream.suspect
