"""The first bytes of a socket: a handshake in one piece, or whatever else speaks HTTP.

uvicorn's own protocol takes a quarter more CPU for a handshake (docs/performance.md), so it is
used for all but those.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import httptools
from uvicorn.config import Config
from uvicorn.protocols.utils import is_ssl
from uvicorn.server import ServerState

from services.gateway.admission.addresses import Proxies
from services.gateway.admission.http_limits import HttpLimits, Refusals
from services.gateway.websocket.connection import WebSocketConnection
from services.gateway.websocket.ends import request_target
from services.gateway.websocket.http_connection import MAX_HEAD, HttpConnection, LingeringClose
from services.gateway.websocket.rfc6455.handshake import Header, refusal
from services.gateway.websocket.rfc6455.keepalive import Keepalive
from services.gateway.websocket.server_context import (
    ReadLimits,
    ServerContext,
    peer_of,
)


@dataclass(kw_only=True)
class ProtocolFactory:
    """For `uvicorn.Config(http=ProtocolFactory(...))`: makes the protocol of each connection."""

    handshake_s: float  # time for a request or a handshake to arrive completely
    ping_interval_s: float  # between two pings to a WebSocket
    ping_timeout_s: float  # how long a ping may stay unanswered
    limits: HttpLimits  # of what speaks HTTP
    proxies: Proxies  # whose word on where a client comes from is taken
    # Called with the reason of each connection or request that is refused.
    on_refused: Callable[[str], None]
    reading: ReadLimits = field(default_factory=ReadLimits)  # what one WebSocket may send
    deflate: bool = False  # whether clients that ask for permessage-deflate get it
    silent: int = 10_000  # connections at a time that have sent nothing yet
    _context: ServerContext | None = field(default=None, init=False)

    def __call__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> ProtocolDetector:
        if self._context is None:
            loop = _loop or asyncio.get_running_loop()
            self._context = ServerContext(
                config,
                server_state,
                app_state,
                loop,
                Keepalive(self.ping_interval_s, self.ping_timeout_s, loop.call_later, loop.time),
                self.proxies,
                self.limits,
                Refusals(loop.time, self.on_refused),
                self.reading,
                self.deflate,
                self.silent,
            )
        return ProtocolDetector(self.handshake_s, self._context)


class ProtocolDetector(asyncio.Protocol):
    """A connection of which nothing is known yet.

    A handshake that comes in one piece, as nearly all do, goes from here straight to its
    `WebSocketConnection`. Everything else, a wrong handshake too, is `HttpConnection`'s.
    """

    __slots__ = ("_context", "_deadline", "_due", "_received", "_seconds", "transport")

    def __init__(self, seconds: float, context: ServerContext) -> None:
        self._seconds = seconds
        self._context = context
        self._due = 0.0
        self._received = b""
        self._deadline: asyncio.TimerHandle | None = None
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are Transports in all but name.
        self.transport = cast("asyncio.Transport", transport)
        context = self._context
        if context.silent >= context.max_silent:
            context.refusals.count("connections", "")
            self.transport.abort()
            return
        context.silent += 1
        context.state.connections.add(self)  # type: ignore[arg-type]  # uvicorn's own only
        self._due = context.loop.time() + self._seconds
        self._deadline = context.loop.call_at(self._due, self._too_slow)

    def data_received(self, data: bytes) -> None:
        # However many sockets send their first bytes in a turn, so many of them are looked at.
        self._received += data
        if len(self._received) == len(data):
            self._context.first_bytes.add(self._detect)
        elif len(self._received) > MAX_HEAD:
            self.transport.pause_reading()

    def _detect(self) -> None:
        data, self._received = self._received, b""
        if self._deadline is None or self.transport.is_closing():
            return
        self._end()
        if not self.transport.is_reading():
            self.transport.resume_reading()
        head = _RequestHead.of(data)
        if head is not None:
            protocol = WebSocketConnection(self._context, self.transport)
            self.transport.set_protocol(protocol)
            protocol.upgrade(head.request(self.transport, self._context.config), b"")
            return
        peer = self._context.proxies.place(peer_of(self.transport))
        if reason := self._context.limits.acquire(peer):
            self._context.refusals.count(reason, peer)
            busy = refusal(503, [(b"retry-after", b"1")], b"")
            LingeringClose(self._context, self.transport, busy)
            return
        http = HttpConnection(self._seconds, self._context, self._due, peer)
        http.connection_made(self.transport)
        self.transport.set_protocol(http)
        http.data_received(data)

    def connection_lost(self, _exc: Exception | None) -> None:
        self._end()

    def shutdown(self) -> None:
        """The server goes away, and this client never sent anything."""
        self.transport.close()

    def _end(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
            self._context.state.connections.discard(self)
            self._context.silent -= 1

    def _too_slow(self) -> None:
        self._end()
        self._context.refusals.count("too_slow", "")
        LingeringClose(self._context, self.transport, refusal(408, (), b""))


class _RequestHead:
    """A request's first line and headers, as httptools calls them out."""

    def __init__(self) -> None:
        self.url = b""
        self.headers: list[Header] = []

    @classmethod
    def of(cls, data: bytes) -> _RequestHead | None:
        """The head in `data`, if that is a whole handshake and nothing else."""
        if not data.startswith(b"GET ") or not data.endswith(b"\r\n\r\n"):
            return None
        head = cls()
        parser = httptools.HttpRequestParser(head)
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            whole = upgrade.args[0] == len(data) <= MAX_HEAD
            plain = parser.get_http_version() == "1.1" and head.is_handshake()
            return head if whole and plain else None
        except httptools.HttpParserError:
            return None
        return None

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def is_handshake(self) -> bool:
        """Whether it asks for a WebSocket, of one host."""
        hosts = [value for name, value in self.headers if name == b"host"]
        upgrades = [value for name, value in self.headers if name == b"upgrade"]
        return len(hosts) == 1 and len(upgrades) == 1 and upgrades[0].lower() == b"websocket"

    def request(self, transport: asyncio.Transport, config: Config) -> dict[str, Any]:
        """What `WebSocketConnection.upgrade` takes."""
        return {
            "method": "GET",
            "http_version": "1.1",
            "scheme": "https" if is_ssl(transport) else "http",
            # Both may be left out, and nothing here asks: each is a system call and a few objects.
            "server": None,
            "client": None,
            "root_path": config.root_path,
            **request_target(self.url, config.root_path),
            "headers": self.headers,
        }
