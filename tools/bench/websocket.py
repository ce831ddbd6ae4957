"""A client's side of a WebSocket, as bytes: for clients that must cost nothing, or mean harm."""

from __future__ import annotations

import asyncio
import base64
import os
import re
import time
from abc import ABC, abstractmethod
from typing import cast

import msgspec

CONTINUATION, TEXT, PING, PONG = 0, 1, 9, 10


def handshake(*headers: str) -> bytes:
    """The request to `/ws`, with these header lines besides."""
    key = base64.b64encode(os.urandom(16)).decode()
    lines = (
        "GET /ws HTTP/1.1",
        "Host: bench",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {key}",
        *headers,
    )
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode()


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, size: int | None = None) -> bytes:
    """As a client sends it; a mask of zeros leaves the payload as it is.

    `size`: what it says of its length, where that is not so.
    """
    size = len(payload) if size is None else size
    first = (0x80 if fin else 0) | opcode
    if size < 126:
        head = bytes((first, 0x80 | size))
    elif size < 65_536:
        head = bytes((first, 0x80 | 126)) + size.to_bytes(2)
    else:
        head = bytes((first, 0x80 | 127)) + size.to_bytes(8)
    return head + bytes(4) + payload


def command(**fields: object) -> bytes:
    """A command of the protocol, in a frame."""
    return frame(TEXT, msgspec.json.encode(fields))


class Follower(ABC, asyncio.Protocol):
    """Subscribes, takes everything at once, and `found` is told of each `pattern` in it."""

    pattern: re.Pattern[bytes]
    # A match may be cut in two: so much of it may have come.
    kept = 40

    def __init__(self, subscribe: bytes, *headers: str) -> None:
        self._subscribe = subscribe
        self._headers = headers
        self._rest = b""
        self.upgraded = False
        self.transport: asyncio.Transport

    @abstractmethod
    def found(self, match: re.Match[bytes], now: int) -> None:
        """Read at `now`, microseconds since the Unix epoch."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are Transports in all but name.
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(handshake(*self._headers))

    def data_received(self, data: bytes) -> None:
        now = time.time_ns() // 1000
        if not self.upgraded:
            self.upgraded = True
            self.transport.write(self._subscribe)
        data = self._rest + data
        end = 0
        for match in self.pattern.finditer(data):
            self.found(match, now)
            end = match.end()
        self._rest = data[end:][-self.kept :]
