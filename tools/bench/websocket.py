"""A client's side of a WebSocket, as bytes: for clients that must cost nothing, or mean harm."""

from __future__ import annotations

import base64
import os

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
