"""Frames of a WebSocket client: read or refused once, however they are cut, and never hoarded.

The first byte says how (compressed or not, where the reads are cut), the rest is what is sent. What
is read, framed anew, is read the same.
"""

from __future__ import annotations

import struct
import zlib

from services.gateway.testing.wire import BINARY, CLOSE, CONT, PING, PONG, TEXT, frame
from services.gateway.websocket.rfc6455.frames import CloseCode
from services.gateway.websocket.rfc6455.inbound import Inbound, Receiver

_MAX_BYTES = 2000
_MAX_FRAGMENTS = 40
Told = tuple[object, ...]


class _Told(Receiver):
    def __init__(self) -> None:
        self.events: list[Told] = []

    def on_text(self, text: str) -> None:
        assert len(text.encode()) <= _MAX_BYTES
        self.events.append((TEXT, text.encode()))

    def on_binary(self, data: bytes) -> None:
        assert len(data) <= _MAX_BYTES
        self.events.append((BINARY, data))

    def on_ping(self, payload: bytes) -> None:
        assert len(payload) <= 125
        self.events.append((PING, payload))

    def on_pong(self, payload: bytes) -> None:
        assert len(payload) <= 125
        self.events.append((PONG, payload))

    def on_close(self, code: int, payload: bytes) -> None:
        assert code == 1005 if not payload else (code,) == struct.unpack_from("!H", payload)
        self.events.append((CLOSE, payload))

    def on_violation(self, code: CloseCode, reason: str) -> None:
        assert reason
        self.events.append(("violation", code))


def _read(chunks: list[bytes], *, deflate: bool) -> list[Told]:
    told, inbound = _Told(), Inbound(_MAX_BYTES, deflate, _MAX_FRAGMENTS)
    for chunk in chunks:
        inbound.feed(chunk, told)
        rest = 0 if inbound._rest is None else len(inbound._rest)
        parts = 0 if inbound._parts is None else len(inbound._parts)
        assert rest <= _MAX_BYTES + 14
        assert parts <= _MAX_BYTES
    ends = [at for at, event in enumerate(told.events) if event[0] in (CLOSE, "violation")]
    assert ends in ([], [len(told.events) - 1]), "nothing comes after the end"
    return told.events


def check(data: bytes) -> None:
    how, sent = data[:1], data[1:]
    number = how[0] if how else 0
    deflate, step = bool(number & 1), (number >> 1) + 1
    events = _read([sent], deflate=deflate)
    cut = [sent[at : at + step] for at in range(0, len(sent), step)]
    assert _read(cut, deflate=deflate) == events
    again = [event for event in events if event[0] != "violation"]
    framed = b"".join(frame(kind, body) for kind, body in again)  # type: ignore[arg-type]  # those of messages hold both
    assert _read([framed], deflate=False) == again


def _deflated(text: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return (packer.compress(text) + packer.flush(zlib.Z_SYNC_FLUSH)).removesuffix(b"\0\0\xff\xff")


SEEDS = (
    b"\x00" + frame(TEXT, b'{"type":"ping"}') + frame(PING, b"1234"),
    b"\x02" + frame(TEXT, "é".encode()[:1], fin=False) + frame(CONT, "é".encode()[1:]),
    b"\x04" + frame(BINARY, b"\0" * 200) + frame(CLOSE, b"\x03\xe8bye"),
    b"\x06" + frame(TEXT, b"a", fin=False) + frame(PING, b"") + frame(CONT, b"b"),
    b"\x01" + frame(TEXT, _deflated(b"x" * 500), rsv=4) + frame(PONG, b""),
    b"\x03" + frame(TEXT, _deflated(b"x" * 5000), rsv=4),
)
