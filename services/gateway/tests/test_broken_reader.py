"""The live reader of a shard breaks by an error nobody foresaw: it is opened again, what came
meanwhile is read from the log, and until then nobody is told that all is well."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from services.common.errors import BrokerClosed, BrokerFailed
from services.common.stream import LiveSubscription, Page
from services.common.stream.nats.broker import NatsBroker
from services.common.stream.nats.live import NatsLive
from services.common.testing.broken import PartsBroker, break_part
from services.gateway.testing import Bench, bench, eventually
from tools.embedded.nats import NatsServer


class Reluctant(PartsBroker):
    """Opens no other live reader until it may."""

    may_open: asyncio.Event
    refused: int

    async def open(self) -> None:
        self.may_open = asyncio.Event()
        self.may_open.set()
        self.refused = 0
        await super().open()

    async def live(self, log: str) -> LiveSubscription:
        if not self.may_open.is_set():
            self.refused += 1
            raise BrokerFailed("live reader", "nobody foresaw this either")
        return await super().live(log)


async def _readyz(gateway: Bench) -> tuple[int, dict[str, object]]:
    async with httpx.AsyncClient() as http:
        answer = await http.get(gateway.http + "/readyz")
        return answer.status_code, answer.json()["checks"]


@pytest.mark.parametrize("how", ["broke", "closed behind our back"])
async def test_it_is_opened_again_and_nothing_is_missed(how: str) -> None:
    broker = Reluctant()
    async with bench(broker, shard_count=1) as gateway:
        market, other = gateway.market(), gateway.market("ETH-USD")
        await market.ticks(3)
        await other.ticks(3)
        check = f"shard-{market.shard}"
        async with gateway.client() as client:
            await client.send(type="subscribe", products=["BTC-USD", "ETH-USD"])
            await client.reach(market)
            await client.reach(other)
            count = gateway.gateway.metrics.reader_breaks.labels(str(market.shard))._value.get
            before = count()
            broker.may_open.clear()
            (live,) = broker.lives
            if how == "broke":
                break_part(live)
            else:
                await live.aclose()
            await eventually(lambda: broker.refused > 1)
            status, checks = await _readyz(gateway)
            assert status == 503
            assert not checks[check]["ok"]  # type: ignore[index]  # of a JSON answer
            await market.ticks(5)
            async with gateway.client() as late:
                await late.send(type="subscribe", products=["BTC-USD"])
                await late.of("welcome")
                await other.ticks(5)
                broker.may_open.set()
                # It was not given what was known when the reader broke.
                snapshot = await late.of("snapshot")
                assert snapshot["snapshot"]["seq"] == market.seq
                await client.reach(market)
                await client.reach(other)
                await market.ticks(2)
                await client.reach(market)
                await late.reach(market)
            assert count() > before
            status, checks = await _readyz(gateway)
            assert status == 200
        assert client.breaks == late.breaks == []


async def test_a_log_whose_reading_breaks_is_read_again() -> None:
    broker = PartsBroker()
    async with bench(broker) as gateway:
        market = gateway.market()
        await market.ticks(3)
        failures = [BrokerFailed("reader", "nobody foresaw this"), BrokerClosed("reader")]
        read = broker.read

        async def breaks(subject: str, cursor: str = "", *, limit: int = 1000) -> Page:
            if failures:
                raise failures.pop()
            return await read(subject, cursor, limit=limit)

        broker.read = breaks  # type: ignore[method-assign]  # the fault
        async with gateway.client() as client:
            await client.send(type="subscribe", products=["BTC-USD"])
            await client.reach(market)
            await market.ticks(3)
            await client.reach(market)
        assert not failures


async def test_on_nats_a_reader_that_broke_is_opened_again(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[NatsLive] = []
    init = NatsLive.__init__

    def remember(self: NatsLive, *args: object, **more: object) -> None:
        init(self, *args, **more)  # type: ignore[arg-type]  # passed on
        made.append(self)

    monkeypatch.setattr(NatsLive, "__init__", remember)
    async with NatsServer() as server:
        reading = NatsBroker([server.url], live_check_s=0.2)
        async with bench(reading, NatsBroker([server.url])) as gateway:
            market = gateway.market()
            await market.ticks(3)
            async with gateway.client() as client:
                await client.send(type="subscribe", products=["BTC-USD"])
                await client.reach(market)
                made[0].fail(KeyError("created"))
                await market.ticks(5)
                await client.reach(market)
                await eventually(lambda: len(made) > 1)
                await market.ticks(2)
                await client.reach(market)
            assert client.breaks == []
