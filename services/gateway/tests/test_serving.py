"""A gateway on a real port with real sockets; the log is in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from services.common.stream.memory.broker import MemoryBroker
from services.gateway.testing import Bench, bench


@pytest.fixture
async def gateway() -> AsyncIterator[Bench]:
    async with bench(MemoryBroker()) as running:
        yield running


async def test_welcome_is_the_first_frame_and_names_the_limits(gateway: Bench) -> None:
    async with gateway.client() as client:
        first = await client.receive()
    assert first["type"] == "welcome"
    assert first["protocol"] == "md.v1.json"
    assert first["limits"]["max_message_bytes"] == 65536


async def test_a_subscriber_gets_a_snapshot_and_then_every_tick_while_they_keep_coming(
    gateway: Bench,
) -> None:
    market = gateway.market()
    await market.publish(market.status())
    await market.ticks(20)
    async with gateway.client() as client, asyncio.TaskGroup() as group:
        group.create_task(market.ticks(200))
        await client.send(type="subscribe", id="s1", products=["BTC-USD"])
        subscribed = await client.of("subscribed")
        assert subscribed["id"] == "s1"
        assert subscribed["results"][0]["ok"]
        assert subscribed["results"][0]["start"] == "snapshot"
        status = await client.of("status")
        assert status["state"] == "live"
        snapshot = await client.of("snapshot")
        assert snapshot["reason"] == "subscribe"
        assert snapshot["snapshot"]["seq"] == subscribed["results"][0]["seq"]
    async with gateway.client() as second:
        await second.send(type="subscribe", products=["BTC-USD"])
        await second.of("snapshot")
        await market.ticks(50)
        await second.reach(market)
    assert client.breaks == second.breaks == []
    assert len(second.seen[str(market.key)]) == 50


async def test_ticks_are_forwarded_byte_for_byte(gateway: Bench) -> None:
    market = gateway.market()
    await market.ticks(1)
    async with gateway.client() as client:
        await client.send(type="subscribe", products=["BTC-USD"])
        await client.of("snapshot")
        await market.ticks(1)
        while True:
            frame = await client.socket.recv()
            assert isinstance(frame, str)
            if frame.startswith('{"type":"incr"'):
                break
    assert frame == '{"type":"incr","tick":' + market.records[-1].decode() + "}"
