"""Everything goes wrong at once, for a while. `SOAK_S=60` makes it a long one."""

from __future__ import annotations

import asyncio
import os

from services.common.stream.memory import MemoryBroker
from services.ingestor.app import Ingestor
from services.ingestor.healing import now_us
from services.ingestor.lanes import BookLane
from services.ingestor.testing import check_books, eventually, raw_records, running
from tools.simulator import SimulatedExchange
from tools.simulator.products import DEFAULT_PRODUCTS

SOAK_S = float(os.environ.get("SOAK_S", "8"))


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
        desks = {name: desk for feed in ingestor.feeds for name, desk in feed.desks.items()}
        heads = {}
        for name in products:
            trade = exchange.state(name).last_trade
            heads[name] = trade.trade_id if trade is not None else 0

        def home(name: str) -> bool:
            trades, book = desks[name].trades, desks[name].book
            return (
                trades is not None
                and isinstance(book, BookLane)
                and (trades.journal.seq or 0) >= heads[name]
                and not book.suspect
                # An update that was lost without a trace is found by the next audit.
                and book.audited > cleared
            )

        await eventually(lambda: all(home(name) for name in products), "all home", 100)
        exchange.paused = True
        await check_books(broker, exchange, products)
        exchange.paused = False
        _print_figures(ingestor, exchange)
        lanes = [desk.trades for desk in desks.values() if desk.trades is not None]
        assert sum(lane.refilled for lane in lanes) > 0
        assert sum(lane.lost for lane in lanes) == 0
        for name in products:
            records = await raw_records(broker, "trades", name)
            seqs = [record.seq for record in records if record.kind == "frame"]
            assert seqs == list(range(seqs[0], seqs[-1] + 1)) if seqs else heads[name] == 0
            assert [record for record in records if record.kind == "gap"] == []


def _print_figures(ingestor: Ingestor, exchange: SimulatedExchange) -> None:
    """For the documents; shown by `pytest -s` and by `make bench-ingest`."""
    desks = [desk for feed in ingestor.feeds for desk in feed.desks.values()]
    trades = [desk.trades for desk in desks if desk.trades is not None]
    books = [desk.book for desk in desks if desk.book is not None]
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
        "trades gaps found": sum(lane.gaps for lane in trades),
        "trades refilled": sum(lane.refilled for lane in trades),
        "trades lost": sum(lane.lost for lane in trades),
        "duplicates dropped": sum(lane.duplicates for lane in trades),
        "books re-based": sum(lane.resyncs for lane in books),
        "audits": audits,
    }
    for name, value in figures.items():
        print(f"{name}: {value}")  # noqa: T201 - what the long run is for
