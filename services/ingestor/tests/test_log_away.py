"""The ingestor against the simulated exchange while its log is away, or is lost."""

from __future__ import annotations

from services.common.stream import LogSpec
from services.common.stream.memory.broker import MemoryBroker, MemoryServer
from services.ingestor.testing import check_books, eventually, raw_records, running
from services.ingestor.tests.test_against_exchange import (
    PRODUCTS,
    caught_up,
    check_chain,
    check_trades,
    joined,
    streams_of,
)
from tools.simulator import SimulatedExchange


async def test_a_broker_that_was_away_costs_no_trade_and_every_hole_is_recorded(
    exchange: SimulatedExchange,
) -> None:
    server = MemoryServer()
    async with MemoryBroker(server) as broker:
        async with running(
            broker,
            exchange.ws_url,
            exchange.rest_url,
            *PRODUCTS,
            broker_buffer_records=64,
            resync_max_queue_ms=30_000,
        ) as ingestor:
            await joined(ingestor)
            exchange.advance(2)
            await caught_up(ingestor, exchange)
            server.stop()
            before = sum(feed.messages for feed in ingestor.feeds)
            exchange.advance(10)
            await eventually(
                lambda: sum(feed.messages for feed in ingestor.feeds) > before + 200,
                "messages while the broker is away",
            )
            server.start()
            exchange.advance(2)
            await caught_up(ingestor, exchange)
            await joined(ingestor)
            await check_books(broker, exchange, PRODUCTS)
            await caught_up(ingestor, exchange)
        for product in PRODUCTS:
            await check_trades(broker, exchange, product)
            for channel in ("ticker", "book"):
                check_chain(await raw_records(broker, channel, product))


async def test_a_log_that_was_lost_begins_anew_in_a_greater_epoch(
    exchange: SimulatedExchange,
) -> None:
    server = MemoryServer()
    async with (
        MemoryBroker(server) as broker,
        running(broker, exchange.ws_url, exchange.rest_url, *PRODUCTS) as ingestor,
    ):
        await joined(ingestor)
        exchange.advance(2)
        await caught_up(ingestor, exchange)
        before = (await raw_records(broker, "trades", "BTC-USD"))[-1].epoch
        server.wipe()
        await broker.ensure([LogSpec("raw", 3600)])
        trades = streams_of(ingestor, "BTC-USD").trades
        assert trades is not None
        await eventually(lambda: trades.writer.epoch > before, "a new epoch")
        exchange.advance(2)
        await caught_up(ingestor, exchange)
        await check_books(broker, exchange, PRODUCTS)
        for product in PRODUCTS:
            for channel in ("trades", "ticker", "book"):
                records = await raw_records(broker, channel, product)
                first, *rest = (record for record in records if record.epoch > before)
                assert (first.kind, first.seq, first.prev) == ("status", 0, None)
                check_chain([first, *rest])
