"""A socket's bytes until it is a WebSocket: answered by HTTP, upgraded or refused, never a failure.

The server's protocols on a transport in memory: whatever comes, in pieces of any size, nothing is
raised into the event loop, what is answered is HTTP with one answer for each request at most, and
no more than a few KiB are kept of what was not asked for.
"""

from __future__ import annotations

import asyncio
import logging
import re
from typing import Any

from uvicorn.config import Config
from uvicorn.server import ServerState

from services.gateway.admission.addresses import Proxies
from services.gateway.admission.http_limits import HttpLimits
from services.gateway.websocket.http_front import ProtocolFactory


class _Wire(asyncio.Transport):
    """A transport whose other end takes everything."""

    def __init__(self) -> None:
        super().__init__({"peername": ("192.0.2.1", 1), "sockname": ("192.0.2.2", 80)})
        self.protocol: Any = None
        self.written = bytearray()
        self.closed = False
        self.reading = True

    def write(self, data: bytes | bytearray | memoryview[int]) -> None:
        if not self.closed:
            self.written += data

    def close(self) -> None:
        self.closed = True

    abort = close

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        """Nothing more is said."""

    def is_closing(self) -> bool:
        return self.closed

    def is_reading(self) -> bool:
        return self.reading

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self.protocol  # type: ignore[no-any-return]  # set before anything is asked

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """It takes everything."""

    def get_write_buffer_size(self) -> int:
        return 0


async def _app(scope: Any, receive: Any, send: Any) -> None:
    """Reads what it is sent, and says so; takes no WebSocket."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008})
        return
    while (await receive()).get("more_body"):
        pass
    headers = [(b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok"})


class _Errors(logging.Handler):
    """Notes what the server calls an error of its own."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.noted: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.noted.append(record.getMessage())


_errors = _Errors()
logging.getLogger("uvicorn.error").addHandler(_errors)
_state = ServerState()


def _server() -> tuple[ProtocolFactory, Config]:
    factory = ProtocolFactory(
        handshake_s=3600,
        ping_interval_s=3600,
        ping_timeout_s=3600,
        limits=HttpLimits(10, 2**20, 3600),
        proxies=Proxies(["192.0.2.0/24"]),
        on_refused=lambda _reason: None,
        deflate=True,
    )
    config = Config(_app, http=factory, log_config=None, access_log=False, lifespan="off")  # type: ignore[arg-type]  # as the gateway gives it
    config.load()
    return factory, config


async def _spoken(sent: bytes, step: int) -> _Wire:
    failures: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    wire = _Wire()
    factory, config = _server()
    wire.set_protocol(factory(config, _state, {}, asyncio.get_running_loop()))
    wire.protocol.connection_made(wire)
    for at in range(0, len(sent), step):
        if wire.closed:
            break
        wire.protocol.data_received(sent[at : at + step])
        await asyncio.sleep(0)
    for _ in range(20 + len(sent) // 16):
        await asyncio.sleep(0)
    wire.close()
    wire.protocol.connection_lost(None)
    for _ in range(3):
        await asyncio.sleep(0)
    assert failures == []
    assert not _state.connections, "nobody is left behind"
    assert factory._context is not None
    assert factory._context.silent == 0
    return wire


def check(data: bytes) -> None:
    _errors.noted.clear()
    step, sent = (data[0] if data else 0) * 4 + 1, data[1:]
    with asyncio.Runner() as runner:
        wire = runner.run(_spoken(sent, step))
    assert _errors.noted == []
    written = bytes(wire.written)
    assert not written or re.match(rb"HTTP/1\.1 [1-5]\d\d ", written)
    if written.startswith(b"HTTP/1.1 101 "):
        return
    # A request has at least a method, a target, a version and an empty line.
    assert written.count(b"HTTP/1.1 ") <= 2 * (1 + len(sent) // 16), "and what it may go on with"


_HOST = b"Host: a\r\n"
SEEDS = (
    b"\xffGET / HTTP/1.1\r\n" + _HOST + b"\r\n",
    b"\x08GET /a?b=c HTTP/1.1\r\n" + _HOST + b"\r\nGET /d HTTP/1.0\r\n\r\n",
    b"\xffPOST / HTTP/1.1\r\n" + _HOST + b"Content-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\n",
    b"\x02POST / HTTP/1.1\r\n" + _HOST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    b"\xffGET /ws HTTP/1.1\r\n"
    + _HOST
    + b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
    + b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
    b"\xffGET / HTTP/1.1\r\n" + _HOST + b"Expect: 100-continue\r\nContent-Length: 1\r\n\r\nx",
    b"\xffHEAD /%zz HTTP/1.1\r\n" + _HOST + b"X: " + b"y" * 900 + b"\r\n\r\n",
)
