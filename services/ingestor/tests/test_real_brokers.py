"""The ingestor on the brokers it is deployed with: the server is killed and comes back."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from services.common.stream import Broker
from services.common.stream.nats.broker import NatsBroker
from services.common.stream.redis.broker import RedisBroker
from services.ingestor.testing import eventually, raw_records, running
from tools.embedded import EmbeddedServer, NatsServer, ValkeyServer
from tools.simulator import SimulatedExchange

PRODUCT = "BTC-USD"


@pytest.fixture(params=["nats", "valkey"])
async def server(request: pytest.FixtureRequest) -> AsyncIterator[EmbeddedServer]:
    made: EmbeddedServer = NatsServer() if request.param == "nats" else ValkeyServer()
    async with made as server:
        yield server


@pytest.fixture
async def broker(server: EmbeddedServer) -> AsyncIterator[Broker]:
    made: Broker
    if isinstance(server, NatsServer):
        made = NatsBroker([server.url], prefix="MARKET")
    else:
        assert isinstance(server, ValkeyServer)
        made = RedisBroker(server.url, prefix="market")
    async with made as broker:
        yield broker


@pytest.mark.parametrize("buffer_records", [65_536, 64], ids=["all-fits", "window-overflows"])
async def test_a_broker_killed_under_load_costs_no_trade(
    server: EmbeddedServer, broker: Broker, buffer_records: int
) -> None:
    async with (
        SimulatedExchange(products=(PRODUCT,), paced=False) as exchange,
        running(
            broker,
            exchange.ws_url,
            exchange.rest_url,
            PRODUCT,
            broker_buffer_records=buffer_records,
            resync_max_queue_ms=30_000,
            shard_count=1,
        ) as ingestor,
    ):

        def live() -> bool:
            return bool(ingestor.feeds) and all(
                stream.state.value == "live" for stream in ingestor.feeds[0].products[PRODUCT].all
            )

        await eventually(live, "streams live")
        exchange.advance(3)
        (feed,) = ingestor.feeds
        await server.kill()
        before = feed.messages
        for _ in range(4):
            exchange.advance(3)
        await eventually(lambda: feed.messages > before + 400, "messages while it is away")
        await server.start()
        exchange.advance(3)
        last = exchange.state(PRODUCT).last_trade
        assert last is not None
        trades = feed.products[PRODUCT].trades
        assert trades is not None
        await eventually(
            lambda: trades.writer.seq == last.trade_id and not trades.healing, "caught up"
        )
        await eventually(live, "streams live again")
    records = await raw_records(broker, "trades", PRODUCT)
    seqs = [record.seq for record in records if record.kind != "status"]
    assert seqs == list(range(seqs[0], last.trade_id + 1))
    assert {record.kind for record in records} == {"frame", "status"}
    for channel in ("trades", "ticker", "book"):
        held = None
        for record in await raw_records(broker, channel, PRODUCT):
            assert record.prev == held
            held = record.seq if record.kind != "status" else held
