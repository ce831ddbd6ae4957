"""The protocol class under the gateway; the standard itself is in conformance."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import struct
from collections.abc import AsyncIterator

import pytest

from services.common.runtime import serve_http
from services.common.stream.memory.broker import MemoryBroker
from services.gateway.app import create_app
from services.gateway.testing import Bench, Client, bench, eventually
from services.gateway.testing.wire import CLOSE, CONT, PING, PONG, TEXT, RawClient
from services.gateway.websocket.asgi import AsgiCall
from services.gateway.websocket.rfc6455.frames import CloseCode
from services.gateway.websocket.server_context import SOCKET_OPTIONS


@pytest.fixture
async def gateway() -> AsyncIterator[Bench]:
    async with bench(MemoryBroker()) as running:
        yield running


@pytest.fixture
async def raw(gateway: Bench) -> AsyncIterator[RawClient]:
    client = await RawClient.connect(gateway.port)
    yield client
    client.writer.close()


async def test_a_fragmented_message_is_one_command_even_with_a_ping_inside(raw: RawClient) -> None:
    raw.send(TEXT, b'{"type":"pi', fin=False)
    raw.send(PING, b"between")
    raw.send(CONT, b'ng","id":', fin=False)
    raw.send(CONT, b"5}")
    assert await raw.of(PONG) == b"between"
    assert b'"id":5' in await raw.of(TEXT, b'"pong"')


async def test_an_open_connection_keeps_no_task_and_nothing_of_its_request(
    gateway: Bench,
) -> None:
    # Breaks when anything holds on to the ASGI call, its scope or its coroutines.
    gc.collect()
    before = asyncio.all_tasks()
    clients = [await RawClient.connect(gateway.port) for _ in range(20)]
    for client in clients:
        await client.of(TEXT, b"welcome")
    await eventually(lambda: asyncio.all_tasks() == before)
    kept = [
        one
        for one in gc.get_objects()
        if isinstance(one, AsgiCall)
        or (isinstance(one, dict) and one.get("type") == "websocket" and "raw_path" in one)
    ]
    assert kept == []
    assert len(gateway.gateway.sessions) == 20
    for client in clients:
        client.writer.close()


async def test_every_connection_has_the_options_of_the_listener(
    gateway: Bench, raw: RawClient
) -> None:
    await raw.of(TEXT, b"welcome")
    (session,) = gateway.gateway.sessions
    with socket.socket(fileno=os.dup(session.fd)) as mine:
        for level, name, value in SOCKET_OPTIONS:
            assert mine.getsockopt(level, name) == value


async def test_a_client_that_vanishes_frees_its_place(gateway: Bench) -> None:
    raw = await RawClient.connect(gateway.port)
    await raw.of(TEXT, b"welcome")
    assert len(gateway.gateway.sessions) == 1
    raw.writer.transport.abort()
    await eventually(lambda: not gateway.gateway.sessions)


async def test_no_frame_follows_a_close_frame(gateway: Bench) -> None:
    market = gateway.market()
    await market.ticks(5)
    raw = await RawClient.connect(gateway.port)
    raw.send(TEXT, b'{"type":"subscribe","products":["BTC-USD"]}')
    await raw.of(TEXT, b'"snapshot"')
    (session,) = gateway.gateway.sessions
    async with asyncio.TaskGroup() as group:
        group.create_task(market.ticks(300))
        session.close(CloseCode.RESTART, "test")
    assert await raw.close_code() == 1012
    raw.send(CLOSE, struct.pack("!H", 1012))
    assert await raw.reader.read() == b""
    raw.writer.close()


async def test_under_another_server_protocol_the_same_chain_is_served(gateway: Bench) -> None:
    market = gateway.market()
    await market.ticks(50)
    async with (
        serve_http(create_app(gateway.gateway), "127.0.0.1", 0, ws="websockets-sansio") as port,
        Client(f"ws://127.0.0.1:{port}/ws") as client,
    ):
        await client.send(type="subscribe", products=["BTC-USD"], from_seq=0)
        await client.reach(market)
        await market.ticks(50)
        await client.reach(market)
    assert client.seen[str(market.key)] == market.chain
    assert client.breaks == []
