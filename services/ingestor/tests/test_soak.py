"""Everything goes wrong at once, for a while. `SOAK_S=60` makes it a long one."""

from __future__ import annotations

import asyncio
import os

from services.common.stream.memory import MemoryBroker
from services.ingestor.healing import now_us
from services.ingestor.testing import eventually, raw_records, running
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
        desks = {name: desk for feed in ingestor.feeds for name, desk in feed.desks.items()}
        heads = {}
        for name in products:
            trade = exchange.state(name).last_trade
            heads[name] = trade.trade_id if trade is not None else 0
            book = desks[name].book
            assert book is not None
            # A lost update that leaves no trace elsewhere is only healed by a new base.
            book.distrust("operator", "end of the soak", now_us())

        def home(name: str) -> bool:
            trades, book = desks[name].trades, desks[name].book
            return (
                trades is not None
                and book is not None
                and (trades.journal.seq or 0) >= heads[name]
                and not book.suspect
            )

        await eventually(lambda: all(home(name) for name in products), "all home", 60)
        lanes = [desk.trades for desk in desks.values() if desk.trades is not None]
        assert sum(lane.refilled for lane in lanes) > 0
        assert sum(lane.lost for lane in lanes) == 0
        for name in products:
            records = await raw_records(broker, "trades", name)
            seqs = [record.seq for record in records if record.kind == "frame"]
            assert seqs == list(range(seqs[0], seqs[-1] + 1)) if seqs else heads[name] == 0
            assert [record for record in records if record.kind == "gap"] == []
