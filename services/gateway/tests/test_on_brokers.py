"""The gateway on real brokers: nats-server and Valkey."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from services.common.stream import Broker, Position, Record
from services.common.stream.nats.broker import NatsBroker
from services.common.stream.redis.broker import RedisBroker
from services.common.subjects import pulse_key, tick_subject
from services.gateway.testing import Bench, bench, eventually
from tools.embedded import EmbeddedServer, NatsServer, ValkeyServer

Backend = tuple[EmbeddedServer, Callable[[], Broker]]


@pytest.fixture(params=["nats", "redis"])
async def backend(request: pytest.FixtureRequest) -> AsyncIterator[Backend]:
    if request.param == "nats":
        async with NatsServer() as nats:
            yield nats, lambda: NatsBroker((nats.url,), prefix="MARKET")
    else:
        async with ValkeyServer() as valkey:
            yield valkey, lambda: RedisBroker(valkey.url, prefix="market")


async def test_snapshot_backfill_and_live_are_one_chain(backend: Backend) -> None:
    _server, broker = backend
    async with bench(broker(), broker(), window_bytes=30_000) as gateway:
        market = gateway.market()
        await market.publish(market.status())
        await market.ticks(1500)
        async with gateway.client() as live, gateway.client() as late:
            async with asyncio.TaskGroup() as group:
                group.create_task(market.ticks(300))
                await live.send(type="subscribe", products=["BTC-USD"])
                await live.of("snapshot")
                await late.send(type="subscribe", products=["BTC-USD"], from_seq=market.chain[4])
            await live.reach(market)
            await late.reach(market)
        assert live.breaks == late.breaks == []
        assert late.seen[str(market.key)] == market.chain[5:]


async def test_pulses_that_nobody_can_read_break_no_reader(backend: Backend) -> None:
    _server, broker = backend
    async with bench(broker(), broker()) as gateway:
        market = gateway.market()
        await market.ticks(3)
        deep = b'{"type":"pulse","x":' + b"[" * 5000
        async with gateway.client() as client:
            await client.send(type="subscribe", products=["BTC-USD"])
            await client.of("snapshot")
            pulse = tick_subject(market.shard, pulse_key("coinbase", "line"))
            before = _breaks(gateway, market.shard)
            for n, payload in enumerate((b"\xff", b'{"type":"pulse","venue":"\xff"}', deep), 1):
                await market.publish(Record(pulse, payload, Position(1, n)))
            await market.ticks(20)
            await client.reach(market)
            assert client.breaks == []
            assert _breaks(gateway, market.shard) == before


def _breaks(gateway: Bench, shard: int) -> float:
    return float(gateway.gateway.metrics.reader_breaks.labels(str(shard))._value.get())


async def test_a_redis_that_deletes_records_when_it_is_full_is_shown_and_served(
    valkey_server: ValkeyServer,
) -> None:
    async with RedisBroker(valkey_server.url) as operator:
        call = operator._calls().call
        await call("CONFIG", "SET", "maxmemory", "100mb", "maxmemory-policy", "allkeys-lru")
        async with bench(RedisBroker(valkey_server.url), RedisBroker(valkey_server.url)) as gateway:
            health = gateway.gateway.health
            await eventually(lambda: health.ready and "broker" in health.report()["degraded"])
            assert "allkeys-lru" in health.report()["degraded"]["broker"]["reason"]


async def test_a_killed_server_that_comes_back_breaks_no_chain(backend: Backend) -> None:
    server, broker = backend
    async with bench(broker(), broker()) as gateway:
        market = gateway.market()
        await market.ticks(50)
        async with gateway.client() as client:
            await client.send(type="subscribe", products=["BTC-USD"])
            await client.of("snapshot")
            await market.ticks(50)
            await client.reach(market)
            await server.kill()
            async with asyncio.TaskGroup() as group:
                group.create_task(market.ticks(100))
                await server.start()
            await market.ticks(50)
            await client.reach(market)
        assert client.breaks == []
        assert client.seen[str(market.key)] == market.chain[50:]


async def test_positions_beyond_what_is_retained_are_told(backend: Backend) -> None:
    _server, broker = backend
    async with bench(broker(), broker()) as gateway:
        market = gateway.market()
        await market.ticks(3)
        market.tick()  # Never stored, as if it had expired before anybody read it.
        lost = market.chain[2]
        await market.ticks(3)
        async with gateway.client() as client:
            await client.send(
                type="subscribe", products=["BTC-USD"], from_seq=lost, on_unrecoverable="error"
            )
            error = await client.of("error")
            assert error["code"] == 4001
