"""A client's side of a WebSocket, as bytes: for clients that must cost nothing, or mean harm."""

from __future__ import annotations

import asyncio
import re
import time
from abc import ABC, abstractmethod
from functools import partial
from typing import cast

import msgspec

from services.gateway.testing import wire
from services.gateway.testing.wire import HANDSHAKE, TEXT

# A mask of zeros leaves the payload as it is.
frame = partial(wire.frame, mask=bytes(4))


def handshake(*headers: str) -> bytes:
    """The request to `/ws`, with these header lines besides."""
    lines = "".join(f"{line}\r\n" for line in (*headers, ""))
    return HANDSHAKE.removesuffix(b"\r\n") + lines.encode()


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
