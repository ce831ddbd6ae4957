"""A socket that takes in next to nothing ahead: the reader's pauses reach the server."""

from __future__ import annotations

import asyncio
import socket
from urllib.parse import urlsplit

from websockets.exceptions import InvalidURI

# Receive buffers of a reader that pauses, and of one that does no more.
_LITTLE_BYTES, _PLENTY_BYTES = 4096, 1024 * 1024


async def connect_narrow(url: str) -> socket.socket:
    parts = urlsplit(url)
    if parts.hostname is None:
        raise InvalidURI(url, "expected a host")
    loop = asyncio.get_running_loop()
    port = parts.port or (443 if parts.scheme == "wss" else 80)
    family, kind, protocol, _, address = (
        await loop.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    )[0]
    found = socket.socket(family, kind, protocol)
    try:
        found.setblocking(False)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _LITTLE_BYTES)
        async with asyncio.timeout(10):
            await loop.sock_connect(found, address)
    except BaseException:  # also when it is cancelled: the socket is nobody else's yet
        found.close()
        raise
    return found


def widen(narrow: socket.socket) -> None:
    """Take in as much as anyone from now on."""
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _PLENTY_BYTES)
