"""The protocol class against raw frames: what a conformance suite sends, and what it expects."""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import AsyncIterator

import pytest

from services.common.runtime import serve_http
from services.common.stream.memory import MemoryBroker
from services.gateway.app import create_app
from services.gateway.testing import Bench, Client, bench

TEXT, BINARY, CONT, CLOSE, PING, PONG = 1, 2, 0, 8, 9, 10


class RawClient:
    """Frames as they are on the wire; nothing is checked for the sender."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, port: int) -> RawClient:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        head = await reader.readuntil(b"\r\n\r\n")
        assert b" 101 " in head
        return cls(reader, writer)

    def send(
        self, opcode: int, payload: bytes = b"", *, fin: bool = True, mask: bool = True
    ) -> None:
        size = len(payload)
        bit = 0x80 if mask else 0
        first = (0x80 if fin else 0) | opcode
        if size < 126:
            head = struct.pack("!BB", first, bit | size)
        elif size < 65_536:
            head = struct.pack("!BBH", first, bit | 126, size)
        else:
            head = struct.pack("!BBQ", first, bit | 127, size)
        if mask:
            key = os.urandom(4)
            payload = key + bytes(byte ^ key[i % 4] for i, byte in enumerate(payload))
        self.writer.write(head + payload)

    async def frame(self) -> tuple[int, bytes]:
        async with asyncio.timeout(10):
            first, second = await self.reader.readexactly(2)
            assert second & 0x80 == 0, "a server does not mask"
            size = second & 0x7F
            if size == 126:
                (size,) = struct.unpack("!H", await self.reader.readexactly(2))
            elif size == 127:
                (size,) = struct.unpack("!Q", await self.reader.readexactly(8))
            return first & 0x0F, await self.reader.readexactly(size)

    async def of(self, wanted: int, containing: bytes = b"") -> bytes:
        while True:
            opcode, payload = await self.frame()
            if opcode == wanted and containing in payload:
                return payload

    async def close_code(self) -> int:
        return int(struct.unpack("!H", (await self.of(CLOSE))[:2])[0])


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


async def test_a_ping_is_answered_with_its_payload(raw: RawClient) -> None:
    raw.send(PING, b"x" * 125)
    assert await raw.of(PONG) == b"x" * 125


async def test_the_close_handshake_echoes_the_code(raw: RawClient) -> None:
    raw.send(CLOSE, struct.pack("!H", 1000))
    assert await raw.close_code() == 1000
    assert await raw.reader.read() == b""


@pytest.mark.parametrize(
    ("opcode", "payload", "options", "code"),
    [
        (TEXT, b"\xff\xfe", {}, 1007),
        (TEXT, b"unmasked", {"mask": False}, 1002),
        (CONT, b"of nothing", {}, 1002),
        (PING, b"x" * 126, {}, 1002),
        (PING, b"", {"fin": False}, 1002),
        (3, b"reserved", {}, 1002),
        (11, b"reserved", {}, 1002),
        (CLOSE, b"\x01", {}, 1002),
    ],
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_what_the_standard_forbids_ends_the_connection_with_its_code(
    raw: RawClient, opcode: int, payload: bytes, options: dict[str, bool], code: int
) -> None:
    raw.send(opcode, payload, **options)
    assert await raw.close_code() == code


async def test_a_client_that_vanishes_frees_its_place(gateway: Bench) -> None:
    raw = await RawClient.connect(gateway.port)
    await raw.of(TEXT, b"welcome")
    assert len(gateway.gateway.sessions) == 1
    raw.writer.transport.abort()
    async with asyncio.timeout(10):
        while gateway.gateway.sessions:  # noqa: ASYNC110 - the gateway's own state is waited for
            await asyncio.sleep(0.005)


async def test_no_frame_follows_a_close_frame(gateway: Bench) -> None:
    market = gateway.market()
    await market.ticks(5)
    raw = await RawClient.connect(gateway.port)
    raw.send(TEXT, b'{"type":"subscribe","products":["BTC-USD"]}')
    await raw.of(TEXT, b'"snapshot"')
    (session,) = gateway.gateway.sessions
    async with asyncio.TaskGroup() as group:
        group.create_task(market.ticks(300))
        session.close(1012, "test")
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
