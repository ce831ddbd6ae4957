"""The HTTP side of a socket: handshakes go over to `GatewayProtocol`, slow requests are ended."""

from __future__ import annotations

import asyncio
from typing import Any, cast
from urllib.parse import unquote

import h11
import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle
from uvicorn.protocols.utils import is_ssl
from uvicorn.server import ServerState

from services.gateway.handshake import Header
from services.gateway.keepalive import Keepalive
from services.gateway.wsproto import LINGER_S, MAX_READ_BYTES, GatewayProtocol, Shared

# As much as h11 takes.
_MAX_HEAD = 16 * 1024
_TOO_LONG = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"connection: close\r\ncontent-length: 0\r\n\r\n"
)
_ANSWER = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class Sockets:
    """For `uvicorn.Config(http=Sockets(...))`: makes the protocol of each connection.

    Args:
        handshake_s: time for a request or a handshake to arrive completely.
        ping_interval_s: between two pings to a WebSocket.
        ping_timeout_s: how long a ping may stay unanswered.
        max_bytes: of a message; larger ones end their connection with 1009.
        deflate: whether clients that ask for permessage-deflate get it.
        control_per_s: pings and unasked pongs a second of one WebSocket, on average.
        message_s: time for a message to arrive completely.
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
    ) -> None:
        self._deflate = deflate
        self._handshake_s = handshake_s
        self._ping_s = (ping_interval_s, ping_timeout_s)
        self._max_bytes = max_bytes
        self._control_per_s = control_per_s
        self._message_s = message_s
        self._shared: Shared | None = None

    def __call__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> Front:
        if self._shared is None:
            loop = _loop or asyncio.get_running_loop()
            keepalive = Keepalive(*self._ping_s, loop.call_later, loop.time)
            self._shared = Shared(
                config,
                server_state,
                app_state,
                loop,
                keepalive,
                self._max_bytes,
                self._deflate,
                self._control_per_s,
                self._message_s,
            )
        return Front(self._handshake_s, self._shared)


class Front(asyncio.Protocol):
    """A connection of which nothing is known yet.

    A handshake that comes in one piece, as nearly all do, goes from here straight to its
    `GatewayProtocol`. Everything else, also what is wrong with a handshake, is `PromptHttp`'s.
    """

    __slots__ = ("_deadline", "_due", "_seconds", "_shared", "transport")

    def __init__(self, seconds: float, shared: Shared) -> None:
        self._seconds = seconds
        self._shared = shared
        self._due = 0.0
        self._deadline: asyncio.TimerHandle | None = None
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are Transports in all but name.
        self.transport = cast("asyncio.Transport", transport)
        self._shared.state.connections.add(self)  # type: ignore[arg-type]  # uvicorn's own only
        self._due = self._shared.loop.time() + self._seconds
        self._deadline = self._shared.loop.call_at(self._due, self._too_slow)

    def data_received(self, data: bytes) -> None:
        self._end()
        head = _Head.of(data)
        if head is not None:
            protocol = GatewayProtocol(self._shared, self.transport)
            self.transport.set_protocol(protocol)
            protocol.upgrade(head.request(self.transport, self._shared.config), b"")
            return
        if len(data) > _MAX_HEAD and data.find(b"\r\n\r\n", 0, _MAX_HEAD) < 0:
            # h11 minds the size only of what is incomplete.
            self.transport.write(_TOO_LONG)
            Farewell(self._shared, self.transport)
            return
        http = PromptHttp(self._seconds, self._shared, self._due)
        http.connection_made(self.transport)
        self.transport.set_protocol(http)
        http.data_received(data)

    def connection_lost(self, _exc: Exception | None) -> None:
        self._end()

    def shutdown(self) -> None:
        """The server goes away, and this client never said anything."""
        self.transport.close()

    def _end(self) -> None:
        self._shared.state.connections.discard(self)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        self._end()
        self.transport.write(_ANSWER)
        Farewell(self._shared, self.transport)


class Farewell(asyncio.Protocol):
    """A connection on which the last word was said.

    What still comes is thrown away for a while: a socket that is closed over unread data is reset,
    and the other side may never read why.
    """

    __slots__ = ("_shared", "_timer", "transport")

    def __init__(self, shared: Shared, transport: asyncio.Transport) -> None:
        self._shared = shared
        self.transport = transport
        self._timer = shared.loop.call_later(LINGER_S, transport.abort)
        shared.state.connections.add(self)  # type: ignore[arg-type]  # uvicorn's own only
        transport.set_protocol(self)
        if not transport.is_reading():
            transport.resume_reading()
        transport.write_eof()

    def connection_lost(self, _exc: Exception | None) -> None:
        self._timer.cancel()
        self._shared.state.connections.discard(self)

    def shutdown(self) -> None:
        """The server goes away."""
        self.transport.close()


class _Head:
    """A request's first line and headers, as httptools calls them out."""

    def __init__(self) -> None:
        self.url = b""
        self.headers: list[Header] = []

    @classmethod
    def of(cls, data: bytes) -> _Head | None:
        """The head in `data`, if that is a whole handshake and nothing else."""
        if not data.startswith(b"GET ") or not data.endswith(b"\r\n\r\n"):
            return None
        head = cls()
        parser = httptools.HttpRequestParser(head)
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            whole = upgrade.args[0] == len(data) <= _MAX_HEAD
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
        """What `GatewayProtocol.upgrade` takes."""
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


class PromptHttp(H11Protocol):
    """One connection, while it speaks HTTP.

    A request, and so a WebSocket handshake too, has to be complete so many seconds after the
    connection was made or, on one that is used again, after its first byte. Bytes that trickle in
    meanwhile do not prolong it.
    """

    def __init__(self, seconds: float, shared: Shared, due: float) -> None:
        super().__init__(shared.config, shared.state, shared.app_state, shared.loop)
        self._seconds = seconds
        # Of the first request, which has begun already; later ones have their own time.
        self._due: float | None = due
        self._shared = shared
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn's own narrowing
        super().connection_made(transport)
        self._begin()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.transport.get_protocol() is not self or self.transport.is_closing():
            self._end()
        elif self.conn.their_state in (h11.IDLE, h11.SEND_BODY):
            self._begin()
        else:
            self._end()

    def _should_upgrade_to_ws(self) -> bool:
        return True

    def handle_websocket_upgrade(self, _event: h11.Request) -> None:
        self.connections.discard(self)
        protocol = GatewayProtocol(self._shared, self.transport)
        self.transport.set_protocol(protocol)
        early, _closed = self.conn.trailing_data
        protocol.upgrade(cast("dict[str, Any]", self.scope), early)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()
        super().connection_lost(exc)

    def _begin(self) -> None:
        if self._deadline is None:
            due, self._due = self._due, None
            due = self.loop.time() + self._seconds if due is None else due
            self._deadline = self.loop.call_at(due, self._too_slow)

    def _end(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        self._deadline = None
        if self.conn.our_state is h11.IDLE:
            self.transport.write(_ANSWER)
        # None before the first request, whatever uvicorn's annotation says.
        cycle = cast("RequestResponseCycle | None", self.cycle)
        if cycle is None or cycle.response_complete:
            self.connections.discard(self)
            Farewell(self._shared, self.transport)
        else:
            self.transport.close()
