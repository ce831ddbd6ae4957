"""For tests: WebSocket frames as they are on the wire, and a client that sends any bytes at all."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from dataclasses import dataclass
from typing import Self

from services.common.testing.waiting import WAIT_S
from services.gateway.websocket.rfc6455.frames import BINARY, CLOSE, CONT, PING, PONG, TEXT

__all__ = ["BINARY", "CLOSE", "CONT", "PING", "PONG", "TEXT", "RawClient", "close_frame", "frame"]

HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def frame(
    opcode: int,  # of the frame, 0 to 15
    payload: bytes = b"",  # before masking
    *,
    fin: bool = True,  # whether it is the message's last
    rsv: int = 0,  # the three reserved bits as a number, RSV1 being 4
    mask: bytes | None = None,  # four bytes; random when not given
    masked: bool = True,  # False leaves the mask out, as only a server may
    size: int | None = None,  # announced instead of the payload's own
) -> bytes:
    """A frame as a client sends it, right or wrong."""
    size = len(payload) if size is None else size
    first = (0x80 if fin else 0) | rsv << 4 | opcode
    bit = 0x80 if masked else 0
    if size < 126:
        head = struct.pack("!BB", first, bit | size)
    elif size < 65_536:
        head = struct.pack("!BBH", first, bit | 126, size)
    else:
        head = struct.pack("!BBQ", first, bit | 127, size)
    if not masked:
        return head + payload
    key = os.urandom(4) if mask is None else mask
    stretched = (key * (len(payload) // 4 + 1))[: len(payload)]
    number = int.from_bytes(payload) ^ int.from_bytes(stretched)
    return head + key + number.to_bytes(len(payload))


def close_frame(code: int, reason: bytes = b"") -> bytes:
    return frame(CLOSE, struct.pack("!H", code) + reason)


@dataclass
class RawClient:
    """A socket; nothing is checked for the sender."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def open(cls, port: int) -> Self:
        """Connected, no handshake sent."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return cls(reader, writer)

    @classmethod
    async def connect(cls, port: int, handshake: bytes = HANDSHAKE) -> Self:
        """Upgraded."""
        client = await cls.open(port)
        client.writer.write(handshake)
        head = await client.head()
        assert b" 101 " in head, head
        return client

    async def head(self) -> bytes:
        """An answer's status line and headers."""
        async with asyncio.timeout(WAIT_S):
            return await self.reader.readuntil(b"\r\n\r\n")

    def send(
        self, opcode: int, payload: bytes = b"", *, fin: bool = True, mask: bool = True
    ) -> None:
        self.writer.write(frame(opcode, payload, fin=fin, masked=mask))

    async def write(self, data: bytes, chop: int | None = None) -> None:
        """Send as it is, or in pieces of `chop` bytes, each a segment of its own."""
        if chop is None:
            self.writer.write(data)
            return
        for at in range(0, len(data), chop):
            if self.reader.at_eof():
                return
            self.writer.write(data[at : at + chop])
            # The server's turn, so that it reads piece by piece.
            await asyncio.sleep(0)

    async def frame(self) -> tuple[int, bytes]:
        """The next frame of the server: opcode and payload."""
        async with asyncio.timeout(WAIT_S):
            first, second = await self.reader.readexactly(2)
            assert second & 0x80 == 0, "a server does not mask"
            assert first & 0xF0 == 0x80, "whole frames, no reserved bits"
            size = second & 0x7F
            if size == 126:
                (size,) = struct.unpack("!H", await self.reader.readexactly(2))
            elif size == 127:
                (size,) = struct.unpack("!Q", await self.reader.readexactly(8))
            return first & 0x0F, await self.reader.readexactly(size)

    async def frames(self) -> list[tuple[int, bytes]]:
        """All frames until the server ends the connection."""
        found: list[tuple[int, bytes]] = []
        while True:
            try:
                found.append(await self.frame())
            except (asyncio.IncompleteReadError, ConnectionError) as end:
                if getattr(end, "partial", b""):
                    raise AssertionError("a frame was cut off") from end
                return found

    async def of(self, wanted: int, containing: bytes = b"") -> bytes:
        """The payload of the next frame with this opcode and content."""
        while True:
            opcode, payload = await self.frame()
            if opcode == wanted and containing in payload:
                return payload

    async def close_code(self) -> int:
        return int(struct.unpack("!H", (await self.of(CLOSE))[:2])[0])

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.writer.close()
