"""How long the feed is away after each kind of loss: from the drop to the first record."""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial
from typing import Any

from services.common.stream.memory.broker import MemoryBroker
from services.common.testing.waiting import eventually
from services.ingestor.app import Ingestor
from services.ingestor.cb_ws import Feed
from services.ingestor.testing import running
from tools.bench.ingest.ingestor import DEPLOYED
from tools.bench.registry import Run, bench
from tools.simulator import SimulatedExchange
from tools.simulator.market.products import DEFAULT_PRODUCTS

# A connection that lasted so long was a success: the next loss is retried at once.
_LASTED_S = 2.5
_PATIENCE_S = 60.0
# Polled finely, since this is what is measured.
until = partial(eventually, every=0.001)
_REFUSED_S = 2.0

_LOSSES: dict[str, dict[str, Any]] = {
    "closed": {"disconnect": {"code": 1001, "reason": "going away"}},
    "reset": {"disconnect": {}},
    "refused": {"refuse_s": _REFUSED_S, "disconnect": {}},
    "silent": {"stall_s": _PATIENCE_S},
}
_NOTES = {
    "refused": "after reset; from when it is accepted again, 2 s later",
    "silent": "from when it is given up, after 10 s",
}


@bench("reconnect")
async def reconnect(run: Run) -> None:
    """From a drop to the first record, and to all streams live: 20 products, 500 messages/s."""
    products = tuple(DEFAULT_PRODUCTS)[:20]
    async with (
        MemoryBroker() as broker,
        SimulatedExchange(products=products, rate=500, depth=200) as exchange,
        running(broker, exchange.ws_url, exchange.rest_url, *products, **DEPLOYED) as ingestor,
    ):
        # It complains of each connection that the exchange refuses on purpose.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        await until(lambda: _live(ingestor))
        (feed,) = ingestor.feeds
        for _ in range(run.rounds):
            for name, fault in _LOSSES.items():
                await asyncio.sleep(_LASTED_S)
                await _lose(run, name, fault, feed, exchange)
    for title in run.cases:
        # The CPU is that of the exchange, too, and of watching; it says nothing here.
        run.note(title, _NOTES.get(title.partition(":")[0], ""))


async def _lose(
    run: Run, name: str, fault: dict[str, Any], feed: Feed, exchange: SimulatedExchange
) -> None:
    before = feed.reconnects
    exchange.control(**fault)
    if "stall_s" in fault:
        await until(lambda: feed.reconnects > before)
        exchange.control(clear=True)
    elif "refuse_s" in fault:
        await until(lambda: "refuse_s" not in exchange.control())
    with run.measure(f"{name}: all streams live", unit="drop") as whole:
        whole.count = 1
        with run.measure(f"{name}: first record", unit="drop") as first:
            first.count = 1
            await until(lambda: feed.reconnects > before)
            lost_at = time.time_ns() // 1000
            await until(lambda: any(at > lost_at for at in _written(feed)))
        await until(lambda: _feed_live(feed))


def _written(feed: Feed) -> list[int]:
    return [
        stream.writer.advanced_at for streams in feed.products.values() for stream in streams.all
    ]


def _live(ingestor: Ingestor) -> bool:
    return bool(ingestor.feeds) and all(map(_feed_live, ingestor.feeds))


def _feed_live(feed: Feed) -> bool:
    return feed.connected and all(
        stream.state.value == "live" for streams in feed.products.values() for stream in streams.all
    )
