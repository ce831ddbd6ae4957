"""The opening handshake of RFC 6455, section 4.2: what is asked, and what is answered. Pure."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable, Sequence

Header = tuple[bytes, bytes]

_UPGRADE = (
    b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n"
    b"sec-websocket-accept: "
)
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_REASONS = {
    400: "Bad Request",
    403: "Forbidden",
    405: "Method Not Allowed",
    408: "Request Timeout",
    426: "Upgrade Required",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
    505: "HTTP Version Not Supported",
}


class Refused(Exception):
    """A request is no handshake: the status, reason and headers to answer it with."""

    def __init__(self, status: int, reason: str, headers: Sequence[Header] = ()) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason
        self.headers = headers


def accept_key(method: str, http_version: str, headers: Sequence[Header]) -> bytes:
    """`Sec-WebSocket-Accept` for a request whose header names are in lower case.

    Raises:
        Refused: it is no handshake, or for another version of the protocol.
    """
    if method != "GET":
        raise Refused(405, "a handshake is a GET", [(b"allow", b"GET")])
    if http_version != "1.1":
        raise Refused(505, "a handshake is HTTP/1.1")
    keys = [value for name, value in headers if name == b"sec-websocket-key"]
    versions = [value for name, value in headers if name == b"sec-websocket-version"]
    if versions != [b"13"]:
        raise Refused(426, "version 13 is spoken here", [(b"sec-websocket-version", b"13")])
    if len(keys) != 1 or not _is_key(keys[0]):
        raise Refused(400, "Sec-WebSocket-Key: expected 16 bytes in base64, once")
    return base64.b64encode(hashlib.sha1(keys[0] + _GUID, usedforsecurity=False).digest())


def _is_key(value: bytes) -> bool:
    try:
        return len(base64.b64decode(value, validate=True)) == 16
    except binascii.Error:
        return False


def subprotocols(headers: Iterable[Header]) -> list[str]:
    """Those that are offered, in order."""
    return [
        offered.strip()
        for name, value in headers
        if name == b"sec-websocket-protocol"
        for offered in value.decode("latin-1").split(",")
    ]


def upgrade(accept: bytes, headers: Iterable[Header]) -> bytes:
    """The 101 that completes the handshake."""
    return b"".join((_UPGRADE, accept, b"\r\n", _lines(headers), b"\r\n"))


def refusal(status: int, headers: Iterable[Header], body: bytes) -> bytes:
    """An answer that is no upgrade, after which the connection ends."""
    reason = _REASONS.get(status, "")
    named = [name.lower() for name, _ in headers]
    more = [(b"content-length", str(len(body)).encode()), (b"connection", b"close")]
    if b"content-type" not in named:
        more.append((b"content-type", b"text/plain; charset=utf-8"))
    lines = _lines([*headers, *(one for one in more if one[0] not in named)])
    return f"HTTP/1.1 {status} {reason}\r\n".encode() + lines + b"\r\n" + body


def _lines(headers: Iterable[Header]) -> bytes:
    return b"".join(b"%b: %b\r\n" % header for header in headers)
