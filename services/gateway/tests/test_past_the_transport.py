"""Shared buffers go to the kernel past the transport; pings, answers and backlogs go through it."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from services.common.stream.memory.broker import MemoryBroker
from services.gateway.testing import WAIT_S, Bench, bench, eventually

_COMMAND = b'{"type":"subscribe","product":"BTC-USD"}'
# A mask of zeros leaves the payload as it is.
_SUBSCRIBE = bytes((0x81, 0x80 | len(_COMMAND), 0, 0, 0, 0)) + _COMMAND
_TEXT, _PING, _PONG = 1, 9, 10


@pytest.fixture
async def gateway() -> AsyncIterator[Bench]:
    # A reader that reads late answers late.
    pings: dict[str, Any] = {"ws_ping_interval_s": 0.01, "ws_ping_timeout_s": 3600}
    async with bench(MemoryBroker(), ws_heartbeat_ms=50, **pings) as running:
        yield running


class Reader:
    """A socket with a small window that is read when the test says so."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.data = bytearray()
        self.answered = 0

    @classmethod
    async def connect(cls, port: int) -> Reader:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, ("127.0.0.1", port))
        await loop.sock_sendall(
            sock,
            b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
        )
        reader = cls(sock)
        while b"\r\n\r\n" not in reader.data:
            await reader.read(4096)
        del reader.data[: reader.data.index(b"\r\n\r\n") + 4]
        await loop.sock_sendall(sock, _SUBSCRIBE)
        return reader

    async def read(self, most: int) -> None:
        async with asyncio.timeout(WAIT_S):
            data = await asyncio.get_running_loop().sock_recv(self.sock, most)
        assert data, "the gateway closed the connection"
        self.data += data

    async def answer(self) -> None:
        """Send a pong for each ping that came: without it no other one is sent."""
        pings = [payload for kind, payload in self.frames() if kind == _PING]
        for payload in pings[self.answered :]:
            pong = bytes((0x80 | _PONG, 0x80 | len(payload), 0, 0, 0, 0)) + payload
            await asyncio.get_running_loop().sock_sendall(self.sock, pong)
        self.answered = len(pings)

    def frames(self) -> list[tuple[int, bytes]]:
        """Every whole frame, as strictly as they can be read."""
        found: list[tuple[int, bytes]] = []
        at, data = 0, bytes(self.data)
        while at + 2 <= len(data):
            first, size = data[at], data[at + 1]
            assert first in (0x80 | _TEXT, 0x80 | _PING), f"byte {at} begins no frame: {first:#x}"
            width = {126: 2, 127: 8}.get(size, 0)
            begin = at + 2 + width
            size = int.from_bytes(data[at + 2 : begin]) if width else size
            if begin + size > len(data):
                break
            found.append((first & 15, data[begin : begin + size]))
            at = begin + size
        return found


async def test_pings_between_shared_buffers_split_no_frame_while_the_socket_is_full_at_times(
    gateway: Bench,
) -> None:
    # Breaks when a buffer goes past a transport in which something still waits.
    market = gateway.market(padding=600)
    await market.ticks(1)
    reader = await Reader.connect(gateway.port)
    while b'"snapshot"' not in reader.data:
        await reader.read(4096)
    (session,) = gateway.gateway.sessions
    chance = random.Random(11)
    while session.quick:
        # Until the socket is full.
        await market.ticks(40)
    for _ in range(60):
        await market.ticks(chance.randrange(1, 40))
        for _ in range(chance.randrange(1, 8)):
            await reader.read(chance.randrange(1, 16_384))
        await reader.answer()
    while not any(
        kind == _TEXT and b'"seq":%d,' % (market.seq or 0) in payload and b'"incr"' in payload
        for kind, payload in reader.frames()
    ):
        await reader.read(65_536)
    frames = reader.frames()
    messages = [msgspec.json.decode(payload) for kind, payload in frames if kind == _TEXT]
    seqs = [message["tick"]["seq"] for message in messages if message["type"] == "incr"]
    assert seqs == market.chain[1:]
    assert [kind for kind, _ in frames].count(_PING) > 1
    # What waited is gone, and it gets what all get again.
    await eventually(lambda: session.quick)
    reader.sock.close()


async def test_a_descriptor_is_not_written_to_once_its_connection_ended(gateway: Bench) -> None:
    # Breaks when a client that left stays among those who are quick: its descriptor's number is
    # soon another client's, who would get what it did not ask for.
    market = gateway.market()
    await market.ticks(1)
    for _ in range(5):
        leaving = await Reader.connect(gateway.port)
        while b'"snapshot"' not in leaving.data:
            await leaving.read(4096)
        (session,) = gateway.gateway.sessions
        await eventually(lambda one=session: one.quick)  # type: ignore[misc]  # mypy's lambda default
        # A reset, which the gateway learns of only by writing or reading.
        leaving.sock.setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00"
        )
        leaving.sock.close()
        await market.ticks(5)
        await eventually(lambda: not gateway.gateway.sessions)
        assert not session.quick
        async with gateway.client() as other:
            await other.of("welcome")
            await market.ticks(5)
            await other.of("hb")
            assert other.types() == ["welcome"]
        await eventually(lambda: not gateway.gateway.sessions)
