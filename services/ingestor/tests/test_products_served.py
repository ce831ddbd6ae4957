"""Which products are served, and over how many connections."""

from __future__ import annotations

from services.common.stream.memory.broker import MemoryBroker
from services.ingestor.testing import eventually, running
from services.ingestor.tests.test_against_exchange import PRODUCTS, joined, streams_of
from tools.simulator import SimulatedExchange


async def test_a_product_the_venue_does_not_serve_is_left_out(
    broker: MemoryBroker, exchange: SimulatedExchange
) -> None:
    """One invalid or delisted product kills the whole subscribe (coinbase-pro-node #174)."""
    async with running(
        broker, exchange.ws_url, exchange.rest_url, *PRODUCTS, "NO-SUCH"
    ) as ingestor:
        await joined(ingestor)
        assert [set(feed.products) for feed in ingestor.feeds] == [set(PRODUCTS)]


async def test_without_validation_one_bad_product_still_costs_the_others_nothing(
    broker: MemoryBroker, exchange: SimulatedExchange
) -> None:
    exchange.control(rest={"status": 500, "paths": ["/products"]})
    async with running(
        broker, exchange.ws_url, exchange.rest_url, *PRODUCTS, "NO-SUCH"
    ) as ingestor:
        await joined(ingestor)
        await eventually(
            lambda: streams_of(ingestor, "NO-SUCH").refused is not None, "the refusal known"
        )


async def test_products_are_spread_over_connections(
    broker: MemoryBroker, exchange: SimulatedExchange
) -> None:
    async with running(
        broker, exchange.ws_url, exchange.rest_url, *PRODUCTS, products_per_connection=1
    ) as ingestor:
        await joined(ingestor)
        assert [set(feed.products) for feed in ingestor.feeds] == [{"BTC-USD"}, {"ETH-USD"}]
