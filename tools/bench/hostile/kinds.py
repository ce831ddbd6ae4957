"""What one hostile client does, as a process of its own: `python -m tools.bench.hostile.kinds`.

Each kind is a generator of bytes for a connection, sent as fast as the gateway takes them; whoever
is thrown out comes back at once.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import cast

from services.gateway.testing.wire import CONT, PING, PONG, TEXT
from tools.bench.websocket import command, frame, handshake

_CHUNK = 64 * 1024


def _always(data: bytes, first: bytes = b"") -> Iterator[bytes]:
    yield first
    chunk = data * max(1, _CHUNK // len(data))
    while True:
        yield chunk


def _giant() -> Iterator[bytes]:
    products = [f"{number:04x}" for number in range(7000)]
    channels = [f"c{number}" for number in range(16)]
    yield from _always(command(type="subscribe", products=products, channels=channels))


def _largest_allowed() -> Iterator[bytes]:
    # As many as one connection may have, again and again.
    for number in count():
        products = [f"N{number}-{one}" for one in range(1000)]
        yield command(type="subscribe", products=products)
        yield command(type="unsubscribe", products=products)


def _each(make: Callable[[], bytes]) -> Callable[[], Iterator[bytes]]:
    """One made after the other, each anew."""
    return lambda: iter(make, None)


def _trickle() -> Iterator[bytes]:
    yield frame(TEXT, b"{", size=1024 * 1024)
    while True:
        yield b" "


def _pings_and_streams() -> Iterator[bytes]:
    yield command(type="subscribe", product="BTC-USD")
    while True:
        yield frame(PING)
        yield b""


def _any() -> str:
    return f"{random.getrandbits(60):x}"


def _request(path: str, key: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\n\r\n".encode()


def _http(*paths: str) -> Callable[[], Iterator[bytes]]:
    def requests() -> Iterator[bytes]:
        for number in count():
            path = paths[number % len(paths)].format(n=number, any=_any())
            yield _request(path, "%KEY%")

    return requests


def _header_by_header() -> Iterator[bytes]:
    yield b"GET /v1/products HTTP/1.1\r\nHost: x\r\n"
    while True:
        yield b"X: y\r\n"


@dataclass(frozen=True, slots=True)
class Kind:
    """What is done.

    Attributes:
        sends: what one connection sends; after the handshake if `websocket`.
        connections: how many at a time.
        reads: whether answers are read.
        pause_s: between two of the things sent.
    """

    title: str
    sends: Callable[[], Iterator[bytes]]
    websocket: bool = True
    connections: int = 1
    reads: bool = True
    pause_s: float = 0.0


_TICKS = "/v1/ticks/BTC-USD?limit=10000"
_BOOK = "/v1/snapshot/ETH-USD?channel=book"
_OVER_HTTP = partial(Kind, websocket=False, connections=8)
_WIDE = partial(Kind, websocket=False, connections=40, reads=False)
KINDS = {
    "pings": Kind("pings of 6 bytes", lambda: _always(frame(PING))),
    "pings-unread": Kind("pings, answers not read", lambda: _always(frame(PING)), reads=False),
    "pings-streams": Kind(
        "pings, a stream not read", _pings_and_streams, reads=False, pause_s=0.06
    ),
    "pongs": Kind("pongs nobody asked for", lambda: _always(frame(PONG))),
    "continuations": Kind(
        "empty continuations",
        lambda: _always(frame(CONT, fin=False), frame(TEXT, fin=False)),
    ),
    "fragments": Kind(
        "fragments of 1 byte",
        lambda: _always(frame(CONT, b" ", fin=False), frame(TEXT, b"{", fin=False)),
    ),
    "endless": Kind("messages that never end", _trickle, connections=50, pause_s=0.05),
    "giant": Kind("7,000 products x 16 channels", _giant),
    "largest": Kind("1,000 unknown products, answers not read", _largest_allowed, reads=False),
    "bad-json": Kind("text that is no JSON", lambda: _always(frame(TEXT, b"{"))),
    "long-json": Kind("60 KB that are no JSON", lambda: _always(frame(TEXT, b"[" * 60_000))),
    "binary": Kind("binary frames", lambda: _always(frame(2, b"x"))),
    "unknown": Kind(
        "unknown products, one by one",
        _each(lambda: command(type="subscribe", product=f"U{_any()}")),
    ),
    "guesses": Kind("keys guessed by `auth`", _each(lambda: command(type="auth", api_key=_any()))),
    "sockets": Kind(
        "2,000 sockets that say nothing more", _each(bytes), connections=2000, pause_s=1
    ),
    "ticks-unread": _WIDE("40 x 10,000 ticks, not read", _http(_TICKS)),
    "books-unread": _WIDE("40 x whole books, not read", _http(_BOOK)),
    "board-unread": _WIDE(
        "40 x board and documents, not read", _http("/openapi.json", "/", "/asyncapi.json")
    ),
    "depths": _OVER_HTTP("books of every depth", _http(_BOOK + "&depth={n}")),
    "gaps": _OVER_HTTP("gaps, one after the other", _http("/v1/gaps?product=BTC-USD", "/v1/gaps")),
    "unknown-http": _OVER_HTTP("unknown products over HTTP", _http("/v1/ticks/U{any}")),
    "guesses-http": _OVER_HTTP(
        "keys guessed over HTTP", _each(lambda: _request("/v1/products", _any()))
    ),
    "rubbish": _OVER_HTTP("what is no HTTP", _each(lambda: random.randbytes(100) + b"\r\n\r\n")),
    "slowloris": _OVER_HTTP(
        "400 requests, a header a second", _header_by_header, connections=400, pause_s=1
    ),
}


class _Connection(asyncio.Protocol):
    """Sends what its kind sends while the transport takes it."""

    def __init__(self, kind: Kind, key: str) -> None:
        self._kind = kind
        self._key = key
        self.ended = asyncio.get_running_loop().create_future()
        self._room = asyncio.Event()
        self._upgraded = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._room.set()
        if self._kind.websocket:
            self.transport.write(handshake(*([f"X-API-Key: {self._key}"] if self._key else [])))
        else:
            self._upgraded.set()

    def data_received(self, _data: bytes) -> None:
        if not self._upgraded.is_set():
            self._upgraded.set()
        if not self._kind.reads:
            self.transport.pause_reading()

    def pause_writing(self) -> None:
        self._room.clear()

    def resume_writing(self) -> None:
        self._room.set()

    def connection_lost(self, _exc: Exception | None) -> None:
        self._room.set()
        self._upgraded.set()
        if not self.ended.done():
            self.ended.set_result(None)

    async def run(self) -> None:
        await self._upgraded.wait()
        for data in self._kind.sends():
            if self.ended.done():
                return
            if data:
                self.transport.write(data.replace(b"%KEY%", self._key.encode()))
            await self._room.wait()
            await asyncio.sleep(self._kind.pause_s)


async def _again_and_again(kind: Kind, port: int, key: str) -> None:
    loop = asyncio.get_running_loop()
    while True:
        try:
            _, connection = await loop.create_connection(
                lambda: _Connection(kind, key), "127.0.0.1", port
            )
        except OSError:
            await asyncio.sleep(0.05)
            continue
        await connection.run()
        await asyncio.sleep(0)


async def _main(name: str, port: int, key: str, seconds: float) -> None:
    kind = KINDS[name]
    try:
        async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
            for _ in range(kind.connections):
                group.create_task(_again_and_again(kind, port, key))
    except TimeoutError:
        return


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], int(sys.argv[2]), sys.argv[3], float(sys.argv[4])))
