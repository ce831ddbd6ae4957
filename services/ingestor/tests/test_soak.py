"""Everything goes wrong at once, for a while. `SOAK_S=60` makes it a long one."""

from __future__ import annotations

import asyncio
import os
from decimal import Decimal

import msgspec
import pytest

from services.common.clock import now_us
from services.common.stream.memory.broker import MemoryBroker
from services.common.wire import LateBody, RawRecord
from services.ingestor.app import Ingestor
from services.ingestor.streams import BookStream
from services.ingestor.testing import check_books, eventually, raw_records, running
from tools.simulator import Credentials, SimulatedExchange
from tools.simulator.market.products import DEFAULT_PRODUCTS
from tools.simulator.market.traffic import VENUE

SOAK_S = float(os.environ.get("SOAK_S", "8"))


class Trade(msgspec.Struct):
    trade_id: int
    price: str
    size: str


async def test_every_trade_survives_drops_repeats_reorders_disconnects_and_a_failing_rest() -> None:
    products = tuple(DEFAULT_PRODUCTS)[:20]
    async with (
        MemoryBroker() as broker,
        SimulatedExchange(products=products, rate=500, seed=5, depth=50) as exchange,
        running(
            broker,
            exchange.ws_url,
            exchange.rest_url,
            *products,
            products_per_connection=7,
            resync_max_queue_ms=20_000,
            book_audit_period_ms=250,
        ) as ingestor,
    ):
        await eventually(
            lambda: (
                len(ingestor.feeds) == -(-len(products) // 7)
                and all(feed.connected for feed in ingestor.feeds)
            ),
            "all feeds active",
        )
        exchange.control(
            drop={"probability": 0.01},
            duplicate={"probability": 0.01},
            reorder={"probability": 0.01, "by": 2},
            disconnect={"every_s": 5},
            rest={"status": 503, "probability": 0.2, "paths": ["/trades", "/book", "/ticker"]},
        )
        # The soak itself: nothing is awaited here but its length.
        await asyncio.sleep(SOAK_S)
        exchange.control(clear=True)
        cleared = now_us()
        served = {
            name: streams for feed in ingestor.feeds for name, streams in feed.products.items()
        }
        heads = {}
        for name in served:
            trade = exchange.state(name).last_trade
            heads[name] = trade.trade_id if trade is not None else 0

        def home(name: str) -> bool:
            trades, book = served[name].trades, served[name].book
            return (
                trades is not None
                and isinstance(book, BookStream)
                and (trades.writer.seq or 0) >= heads[name]
                and not book.suspect
                # An update that was lost without a trace is found by the next audit.
                and book.audited > cleared
            )

        await eventually(lambda: all(home(name) for name in served), "all home", 100)
        exchange.paused = True
        await check_books(broker, exchange, tuple(served))
        exchange.paused = False
        _print_figures(ingestor, exchange)
        streams = [streams.trades for streams in served.values() if streams.trades is not None]
        assert sum(stream.refilled for stream in streams) > 0
        assert sum(stream.lost for stream in streams) == 0
        for name in served:
            records = await raw_records(broker, "trades", name)
            seqs = [record.seq for record in records if record.kind == "frame"]
            assert seqs == list(range(seqs[0], seqs[-1] + 1)) if seqs else heads[name] == 0
            assert [record for record in records if record.kind == "gap"] == []


# Rewrites nothing but the form, or what somebody has to ask REST for.
ODD = {
    "exponent": {"probability": 0.02, "greetings": True},
    "empty": {"probability": 0.02, "greetings": True},
    "absent": {"probability": 0.02, "greetings": True},
    "bad_size": {"probability": 0.003},
    "bad_price": {"probability": 0.003},
    "wrong_size": {"probability": 0.003},
    "year_0001": {"probability": 0.003},
    "bad_time": {"probability": 0.003},
    "wild_trade_id": {"probability": 0.002},
    "wild_sequence": {"probability": 0.002},
    "huge_sequence": {"probability": 0.002},
}
# One after the other; what a page or a broken answer says is no refusal.
REST: tuple[dict[str, object], ...] = (
    {"answer": "html"},
    {"answer": "html", "status": 502},
    {"answer": "html", "status": 404, "paths": ["/SOL-USD/"]},
    {"answer": "undecodable"},
    {"answer": "cut"},
    {"answer": "not_json"},
    {"answer": "empty"},
    {"status": 503},
)
GARBAGE = ("json", "unknown_type", "binary", "null", "error", "rate_error")
ANSWERS = {
    "ack_late": {"probability": 0.3},
    "part": {"probability": 0.2},
    "snapshot_late": {"probability": 0.3},
    "error": {"probability": 0.1},
}


@pytest.mark.parametrize("book", ["level2_batch", "level2"])
async def test_every_trade_and_book_survives_the_venue_at_its_oddest(book: str) -> None:
    names = tuple(DEFAULT_PRODUCTS)[:10]
    untraded, auctioned, renumbered, delisted = names[-1], names[1], names[-2], names[-3]
    key = Credentials()
    async with (
        MemoryBroker() as broker,
        SimulatedExchange(
            products=names, rate=300, seed=7, depth=100, traffic=VENUE, untraded=(untraded,)
        ) as exchange,
        running(
            broker,
            exchange.ws_url,
            exchange.rest_url,
            *names,
            coinbase_channels=("ticker", "heartbeat", "matches", book),
            coinbase_api_key=key.key,
            coinbase_api_secret=key.secret,
            coinbase_api_passphrase=key.passphrase,
            products_per_connection=4,
            resync_max_queue_ms=20_000,
            book_audit_period_ms=250,
            # A product that one nameless answer refused is asked for again when it stays silent,
            # after the time that services have. This market's clock goes on, so silence counts.
            heartbeat_dead_ms=10_000,
        ) as ingestor,
    ):
        await eventually(
            lambda: len(ingestor.feeds) == 3 and all(feed.connected for feed in ingestor.feeds),
            "all feeds active",
        )
        exchange.control(
            odd=ODD,
            answers=ANSWERS,
            drop={"probability": 0.005, "one_connection": True},
            duplicate={"probability": 0.005},
            reorder={"probability": 0.005, "by": 2},
            disconnect={"every_s": SOAK_S / 3},
            auction={"products": [auctioned], "for_s": SOAK_S / 2},
        )
        for number, rest in enumerate(REST):
            exchange.control(
                rest={"probability": 0.3, "paths": ["/trades", "/book"], **rest},
                garbage={"kind": GARBAGE[number % len(GARBAGE)], "probability": 0.002},
            )
            if number == len(REST) // 2:
                exchange.control(renumber=[renumbered], delist=[delisted])
            # The soak itself: nothing is awaited here but its length.
            await asyncio.sleep(SOAK_S / len(REST))
        exchange.control(clear=True)
        served = {
            name: streams for feed in ingestor.feeds for name, streams in feed.products.items()
        }
        alive = [name for name in names if name != delisted]
        cleared = now_us()
        heads = {name: _last_trade(exchange, name) for name in alive}

        def missing(name: str) -> list[str]:
            trades, stream = served[name].trades, served[name].book
            assert trades is not None
            assert isinstance(stream, BookStream)
            return [
                what
                for what, wrong in (
                    ("trades", (trades.writer.seq or 0) < heads[name]),
                    ("book", stream.suspect),
                    ("audit", stream.audited <= cleared),
                    ("open gaps", bool(trades.open.left)),
                )
                if wrong
            ]

        def far() -> dict[str, list[str]]:
            return {name: missing(name) for name in alive if missing(name)}

        try:
            await eventually(lambda: not far(), "all home", 100)
        except AssertionError as error:
            raise AssertionError(f"{error}: {far()}") from error
        exchange.paused = True
        await check_books(broker, exchange, alive)
        exchange.paused = False
        _print_figures(ingestor, exchange)
        for name in alive:
            if name != renumbered:
                records = await raw_records(broker, "trades", name)
                _check_trades(records, exchange, name)


def _last_trade(exchange: SimulatedExchange, name: str) -> int:
    trade = exchange.state(name).last_trade
    return trade.trade_id if trade is not None else 0


def _check_trades(records: list[RawRecord], exchange: SimulatedExchange, name: str) -> None:
    """Each trade since the first is there once, with the venue's own figures, now or as late."""
    told: dict[int, Trade] = {}
    for record in records:
        if record.kind == "frame":
            trade = msgspec.json.decode(record.body, type=Trade)
            assert trade.trade_id not in told
            told[trade.trade_id] = trade
        elif record.kind == "late":
            for each in msgspec.json.decode(record.body, type=LateBody).messages:
                trade = msgspec.json.decode(each, type=Trade)
                told[trade.trade_id] = trade
    truth = {trade.trade_id: trade for trade in exchange.state(name).tape.all()}
    first = min(told, default=max(truth, default=0) + 1)
    assert sorted(told) == [number for number in sorted(truth) if first <= number <= max(told)]
    for number, trade in told.items():
        known = truth[number]
        assert Decimal(trade.price) == Decimal(known.price)
        assert Decimal(trade.size) == Decimal(known.size)


def _print_figures(ingestor: Ingestor, exchange: SimulatedExchange) -> None:
    """For the documents; shown by `pytest -s` and by `make bench-ingest`."""
    products = [streams for feed in ingestor.feeds for streams in feed.products.values()]
    trades = [streams.trades for streams in products if streams.trades is not None]
    books = [streams.book for streams in products if streams.book is not None]
    totals = exchange.report()["messages"]
    audits = {
        sample.labels["outcome"]: int(sample.value)
        for family in ingestor.registry.collect()
        for sample in family.samples
        if sample.name == "md_book_audit_total"
    }
    figures = {
        "seconds": SOAK_S,
        "messages received": sum(feed.messages for feed in ingestor.feeds),
        "connections lost": sum(feed.reconnects for feed in ingestor.feeds),
        "sent by the venue": {name: dict(counts) for name, counts in totals.items()},
        "trades gaps found": sum(stream.gaps for stream in trades),
        "trades refilled": sum(stream.refilled for stream in trades),
        "trades lost": sum(stream.lost for stream in trades),
        "duplicates dropped": sum(stream.duplicates for stream in trades),
        "books re-based": sum(stream.resyncs for stream in books),
        "audits": audits,
    }
    for name, value in figures.items():
        print(f"{name}: {value}")  # noqa: T201 - what the long run is for
