"""Two ingestors of the same products as processes, on both brokers: one writes, one stands by."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
import msgspec
import pytest

from services.common.settings import child_environment
from services.common.stream import Broker
from services.common.stream.nats.broker import NatsBroker
from services.common.stream.redis.broker import RedisBroker
from services.common.testing.line_pair import ACCIDENTS, Accident, LinePair
from services.common.wire import RawRecord
from services.ingestor.testing import check_books, eventually, raw_records
from tools.embedded import EmbeddedServer, NatsServer, ValkeyServer, free_port
from tools.simulator import SimulatedExchange
from tools.stack.process import Process

PRODUCTS = ("BTC-USD", "ETH-USD")


class Line(Process):
    """One of the two."""

    def __init__(self, name: str, folder: Path, variables: dict[str, str]) -> None:
        super().__init__(
            name,
            "services.ingestor",
            port=free_port(),
            log_dir=folder,
            ready_path="/readyz",
            environment=lambda port: child_environment(
                {**variables, "HTTP_PORT": str(port), "INGESTOR_LINE": name}
            ),
        )

    async def role(self) -> str:
        async with httpx.AsyncClient(base_url=self.url, timeout=5, trust_env=False) as client:
            return str((await client.get("/feeds")).json()["role"])


class Pair(LinePair[Line]):
    """Both, and the log that they write."""

    def __init__(self, broker: Broker, exchange: SimulatedExchange, lines: list[Line]) -> None:
        super().__init__(lines)
        self.broker = broker
        self.exchange = exchange

    async def works(self, line: Line) -> bool:
        return await line.role() == "active"

    async def goes_on(self) -> None:
        """Every stream of the log gets further."""
        for product in PRODUCTS:
            for channel in ("trades", "ticker", "book"):
                before = (await raw_records(self.broker, channel, product))[-1]

                async def further(
                    channel: str = channel, product: str = product, before: RawRecord = before
                ) -> bool:
                    newest = (await raw_records(self.broker, channel, product))[-1]
                    return (newest.epoch, newest.seq) > (before.epoch, before.seq)

                await eventually(further, f"{channel} of {product} goes on")

    async def check(self) -> None:
        """What is in the log is the exchange's truth, once and in order, without a gap."""
        self.exchange.paused = True
        await check_books(self.broker, self.exchange, PRODUCTS)
        for product in PRODUCTS:
            last = self.exchange.state(product).last_trade
            assert last is not None

            async def whole(product: str = product, last: int = last.trade_id) -> bool:
                return (await raw_records(self.broker, "trades", product))[-1].seq == last

            await eventually(whole, "the last trade is in the log")
            trades = await raw_records(self.broker, "trades", product)
            seqs = [record.seq for record in trades if record.kind != "status"]
            assert seqs == list(range(seqs[0], last.trade_id + 1))
            assert {record.kind for record in trades} == {"frame", "status"}
            # Nothing was missed and fetched either: the line that took over had heard it.
            told = [msgspec.json.decode(each.body) for each in trades if each.kind == "status"]
            assert {each["state"] for each in told} == {"live"}
            for channel in ("trades", "ticker", "book"):
                held, sub = None, 0
                for record in await raw_records(self.broker, channel, product):
                    assert record.prev == held
                    if record.kind == "status":
                        assert record.sub == sub + 1
                    else:
                        assert record.prev_sub in (sub, None)
                        held = record.seq
                    sub = record.sub


@pytest.fixture(params=["nats", "valkey"])
async def server(request: pytest.FixtureRequest) -> AsyncIterator[EmbeddedServer]:
    made: EmbeddedServer = NatsServer() if request.param == "nats" else ValkeyServer()
    async with made as server:
        yield server


@asynccontextmanager
async def two_lines(server: EmbeddedServer, folder: Path) -> AsyncIterator[Pair]:
    async with AsyncExitStack() as stack:
        broker: Broker = (
            NatsBroker([server.url], prefix="MARKET")
            if isinstance(server, NatsServer)
            else RedisBroker(server.url, prefix="market")
        )
        await stack.enter_async_context(broker)
        exchange = await stack.enter_async_context(SimulatedExchange(products=PRODUCTS, rate=200))
        variables = {
            "BROKER_KIND": "nats" if isinstance(server, NatsServer) else "redis",
            "NATS_URLS": server.url,
            "REDIS_URL": server.url,
            "COINBASE_WS_PRIMARY": exchange.ws_url,
            "COINBASE_REST_URL": exchange.rest_url,
            "COINBASE_PRODUCTS": ",".join(PRODUCTS),
            "HTTP_HOST": "127.0.0.1",
            "SHARD_COUNT": "1",
            "LOG_FORMAT": "json",
            "INGESTOR_PAIR": "main",
        }
        lines = [Line(name, folder, variables) for name in "ab"]
        for line in lines:
            await line.spawn()
            stack.push_async_callback(line.kill)
        for line in lines:
            await line.ready()
        yield Pair(broker, exchange, lines)


@pytest.mark.parametrize("accident", ACCIDENTS, ids=lambda each: each.__name__)
async def test_the_other_line_goes_on_without_a_trade_lost_or_doubled(
    server: EmbeddedServer, accident: Accident, tmp_path: Path
) -> None:
    async with two_lines(server, tmp_path) as pair:
        for _ in range(2):
            line = await pair.worker()
            await pair.goes_on()
            await accident(pair, line)
            await pair.goes_on()
        await pair.check()
        assert {await line.role() for line in pair.lines} == {"active", "standby"}
