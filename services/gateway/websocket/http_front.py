"""The first bytes of a socket: a handshake in one piece, or whatever else speaks HTTP.

uvicorn's own protocol takes a quarter more CPU for a handshake (docs/performance.md), so it is
used for all but those.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast
from urllib.parse import unquote

import httptools
from uvicorn.config import Config
from uvicorn.protocols.utils import is_ssl
from uvicorn.server import ServerState

from services.gateway.admission.addresses import Proxies
from services.gateway.admission.http_limits import HttpLimits
from services.gateway.admission.refusals import Refusals
from services.gateway.websocket.connection import (
    MAX_READ_BYTES,
    ServerContext,
    WebSocketConnection,
    peer_of,
)
from services.gateway.websocket.handshake import Header, refusal
from services.gateway.websocket.http_connection import MAX_HEAD, HttpConnection, LingeringClose
from services.gateway.websocket.inbound import MAX_FRAGMENTS
from services.gateway.websocket.keepalive import Keepalive


class ProtocolFactory:
    """For `uvicorn.Config(http=ProtocolFactory(...))`: makes the protocol of each connection.

    Args:
        handshake_s: time for a request or a handshake to arrive completely.
        ping_interval_s: between two pings to a WebSocket.
        ping_timeout_s: how long a ping may stay unanswered.
        max_bytes: of a message; larger ones end their connection with 1009.
        deflate: whether clients that ask for permessage-deflate get it.
        control_per_s: pings and unasked pongs a second of one WebSocket, on average.
        message_s: time for a message to arrive completely.
        max_fragments: of a message; one more ends its connection with 1008.
        silent: connections at a time that have said nothing yet.
        limits: of what speaks HTTP.
        proxies: whose word on where a client comes from is taken.
    """

    def __init__(
        self,
        *,
        handshake_s: float,
        ping_interval_s: float,
        ping_timeout_s: float,
        max_bytes: int = MAX_READ_BYTES,
        deflate: bool = False,
        control_per_s: float = 20,
        message_s: float = 10,
        silent: int = 10_000,
        max_fragments: int = MAX_FRAGMENTS,
        limits: HttpLimits | None = None,
        proxies: Proxies | None = None,
    ) -> None:
        self._deflate = deflate
        self._handshake_s = handshake_s
        self._ping_s = (ping_interval_s, ping_timeout_s)
        self._max_bytes = max_bytes
        self._control_per_s = control_per_s
        self._message_s = message_s
        self._silent = silent
        self._max_fragments = max_fragments
        self._proxies = Proxies(()) if proxies is None else proxies
        self._limits = HttpLimits(1000, 64 * 1024 * 1024, 20) if limits is None else limits
        self._shared: ServerContext | None = None

    def __call__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> ProtocolDetector:
        if self._shared is None:
            loop = _loop or asyncio.get_running_loop()
            keepalive = Keepalive(*self._ping_s, loop.call_later, loop.time)
            self._shared = ServerContext(
                config,
                server_state,
                app_state,
                loop,
                keepalive,
                self._max_bytes,
                self._deflate,
                self._control_per_s,
                self._message_s,
                self._proxies,
                self._limits,
                Refusals(loop.time),
                self._silent,
                max_fragments=self._max_fragments,
            )
        return ProtocolDetector(self._handshake_s, self._shared)


class ProtocolDetector(asyncio.Protocol):
    """A connection of which nothing is known yet.

    A handshake that comes in one piece, as nearly all do, goes from here straight to its
    `WebSocketConnection`. Everything else, a wrong handshake too, is `HttpConnection`'s.
    """

    __slots__ = ("_deadline", "_due", "_said", "_seconds", "_shared", "transport")

    def __init__(self, seconds: float, shared: ServerContext) -> None:
        self._seconds = seconds
        self._shared = shared
        self._due = 0.0
        self._said = b""
        self._deadline: asyncio.TimerHandle | None = None
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are Transports in all but name.
        self.transport = cast("asyncio.Transport", transport)
        shared = self._shared
        if shared.silent.count >= shared.most_silent:
            shared.refusals.count("connections", "")
            self.transport.abort()
            return
        shared.silent.count += 1
        shared.state.connections.add(self)  # type: ignore[arg-type]  # uvicorn's own only
        self._due = shared.loop.time() + self._seconds
        self._deadline = shared.loop.call_at(self._due, self._too_slow)

    def data_received(self, data: bytes) -> None:
        # However many sockets have something to say in a turn, it is so many that are heard.
        self._said += data
        if len(self._said) == len(data):
            self._shared.arrivals.add(self._heard)
        elif len(self._said) > MAX_HEAD:
            self.transport.pause_reading()

    def _heard(self) -> None:
        data, self._said = self._said, b""
        if self._deadline is None or self.transport.is_closing():
            return
        self._end()
        if not self.transport.is_reading():
            self.transport.resume_reading()
        head = _RequestHead.of(data)
        if head is not None:
            protocol = WebSocketConnection(self._shared, self.transport)
            self.transport.set_protocol(protocol)
            protocol.upgrade(head.request(self.transport, self._shared.config), b"")
            return
        peer = self._shared.proxies.place(peer_of(self.transport))
        if reason := self._shared.limits.enter(peer):
            self._shared.refusals.count(reason, peer)
            busy = refusal(503, [(b"retry-after", b"1")], b"")
            LingeringClose(self._shared, self.transport, busy)
            return
        http = HttpConnection(self._seconds, self._shared, self._due, peer)
        http.connection_made(self.transport)
        self.transport.set_protocol(http)
        http.data_received(data)

    def connection_lost(self, _exc: Exception | None) -> None:
        self._end()

    def shutdown(self) -> None:
        """The server goes away, and this client never said anything."""
        self.transport.close()

    def _end(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
            self._shared.state.connections.discard(self)
            self._shared.silent.count -= 1

    def _too_slow(self) -> None:
        self._end()
        self._shared.refusals.count("too_slow", "")
        LingeringClose(self._shared, self.transport, refusal(408, (), b""))


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
        raw_path, _, query = self.url.partition(b"?")
        path = raw_path.decode("latin-1")
        return {
            "method": "GET",
            "http_version": "1.1",
            "scheme": "https" if is_ssl(transport) else "http",
            # Both may be left out, and nothing here asks: each is a system call and a few objects.
            "server": None,
            "client": None,
            "root_path": config.root_path,
            "path": config.root_path + (unquote(path) if "%" in path else path),
            "raw_path": config.root_path.encode("ascii") + raw_path,
            "query_string": query,
            "headers": self.headers,
        }
