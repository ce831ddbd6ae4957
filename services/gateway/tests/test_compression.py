"""permessage-deflate with real clients: for those who ask, where it is switched on."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from websockets.asyncio.client import ClientConnection
from websockets.extensions.permessage_deflate import (
    ClientPerMessageDeflateFactory,
    PerMessageDeflate,
)

from services.common.runtime import serve_http
from services.common.stream.memory.broker import MemoryBroker
from services.gateway.app import create_app
from services.gateway.testing import Bench, Client, bench


@pytest.fixture
async def gateway() -> AsyncIterator[Bench]:
    async with bench(MemoryBroker(), gateway_compression=True) as running:
        yield running


def _agreed(socket: ClientConnection) -> PerMessageDeflate | None:
    found = [e for e in socket.protocol.extensions if isinstance(e, PerMessageDeflate)]
    return found[0] if found else None


@pytest.mark.parametrize("batch", [False, True])
async def test_a_client_that_asks_reads_snapshot_backfill_ticks_and_control_messages(
    gateway: Bench, batch: bool
) -> None:
    market = gateway.market()
    book = gateway.market("ETH-USD", "book")
    await market.ticks(300)
    await book.ticks(1)
    async with gateway.client(compression="deflate") as client:
        agreed = _agreed(client.socket)
        assert agreed is not None
        # Both ends forget each message: frames are shared, and no memory is held between them.
        assert agreed.remote_no_context_takeover
        assert agreed.local_no_context_takeover
        await client.send(type="subscribe", products=["BTC-USD"], from_seq=0, batch=batch)
        await client.reach(market)
        await client.send(type="subscribe", products=["ETH-USD"], channel="book")
        await client.of("snapshot")
        await client.send(type="ping", id="x" * 200)
        assert (await client.of("pong"))["id"] == "x" * 200
        await client.send(type="subscribe", products=["NONE-USD"])
        await client.of("hb")
        await market.ticks(50)
        await client.reach(market)
    assert client.seen[str(market.key)] == market.chain
    assert client.breaks == []


async def test_clients_that_ask_and_clients_that_do_not_are_served_side_by_side(
    gateway: Bench,
) -> None:
    market = gateway.market()
    await market.ticks(3)
    async with (
        gateway.client(compression="deflate") as asking,
        gateway.client(compression=None) as plain,
        gateway.client(compression="deflate") as arrays,
    ):
        assert _agreed(plain.socket) is None
        for client, batch in ((asking, False), (plain, False), (arrays, True)):
            await client.send(type="subscribe", products=["BTC-USD"], batch=batch)
            await client.of("snapshot")
        for _ in range(20):
            await market.ticks(10)
        for client in (asking, plain, arrays):
            await client.reach(market)
            assert client.seen[str(market.key)] == market.chain[3:]
            assert client.breaks == []


async def test_it_is_off_unless_switched_on() -> None:
    async with (
        bench(MemoryBroker()) as gateway,
        gateway.client(compression="deflate") as client,
    ):
        assert _agreed(client.socket) is None
        await client.of("welcome")


async def test_a_client_with_a_smaller_window_than_the_shared_frames_need_gets_plain_ones(
    gateway: Bench,
) -> None:
    market = gateway.market()
    await market.ticks(100)
    extension = ClientPerMessageDeflateFactory(server_max_window_bits=9)
    async with gateway.client(compression=None, extensions=[extension]) as client:
        await client.send(type="subscribe", products=["BTC-USD"], from_seq=0)
        await client.reach(market)
        await market.ticks(10)
        await client.reach(market)
        (session,) = gateway.gateway.sessions
        assert session.encoding.encode([b"x"]) == b"x"
    assert client.seen[str(market.key)] == market.chain


async def test_under_another_server_protocol_its_own_compression_is_used(gateway: Bench) -> None:
    market = gateway.market()
    await market.ticks(50)
    async with (
        serve_http(create_app(gateway.gateway), "127.0.0.1", 0, ws="websockets-sansio") as port,
        Client(f"ws://127.0.0.1:{port}/ws", compression="deflate") as client,
    ):
        assert _agreed(client.socket) is not None
        await client.send(type="subscribe", products=["BTC-USD"], from_seq=0, batch=True)
        await client.reach(market)
        await market.ticks(50)
        await client.reach(market)
    assert client.seen[str(market.key)] == market.chain
    assert client.breaks == []
