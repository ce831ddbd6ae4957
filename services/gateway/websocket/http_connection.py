"""A connection that speaks HTTP, by uvicorn's httptools protocol: strict, bounded, ended in time.

llhttp refuses what RFC 9112 calls an attack (Content-Length beside Transfer-Encoding, folded lines,
bare LF, lists as a length); what it leaves to its user is here.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from services.gateway.websocket.connection import WebSocketConnection
from services.gateway.websocket.ends import LINGER_S, request_target
from services.gateway.websocket.rfc6455.handshake import refusal
from services.gateway.websocket.server_context import ServerContext

# Of a request's first line and headers together.
MAX_HEAD = 16 * 1024
# What the parser is given at a time: as many requests as fit in are begun together, no more. And
# what is read of one connection in one turn of the event loop.
_SLICE = 512
_TURN_BYTES = 8 * 1024


class LingeringClose(asyncio.Protocol):
    """A connection on which the last word was said.

    What still comes is thrown away for a while: a socket that is closed over unread data is reset,
    and the other side may never read why.
    """

    __slots__ = ("_context", "_timer", "transport")

    def __init__(
        self, context: ServerContext, transport: asyncio.Transport, last: bytes = b""
    ) -> None:
        self._context = context
        self.transport = transport
        self._timer = context.loop.call_later(LINGER_S, transport.abort)
        context.state.connections.add(self)  # type: ignore[arg-type]  # uvicorn's own only
        transport.set_protocol(self)
        if last:
            transport.write(last)
        if not transport.is_reading():
            transport.resume_reading()
        transport.write_eof()

    def connection_lost(self, _exc: Exception | None) -> None:
        self._timer.cancel()
        self._context.state.connections.discard(self)

    def shutdown(self) -> None:
        """The server goes away."""
        self.transport.close()


class _SafeWriter:
    """A transport to answer through, also when the client has gone and nobody was told yet.

    uvloop's raise then, in the middle of the application.
    """

    __slots__ = ("_transport", "close", "is_closing")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.close = transport.close
        self.is_closing = transport.is_closing

    def write(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(data)


class HttpConnection(HttpToolsProtocol):
    """One connection, while it speaks HTTP.

    A request has to be complete so many seconds after the connection was made or, on one that is
    used again, after its first byte; bytes that trickle in do not prolong it. Its answer has to be
    taken in a time that goes by its size.
    """

    def __init__(self, seconds: float, context: ServerContext, due: float, place: str = "") -> None:
        super().__init__(context.config, context.state, context.app_state, context.loop)
        self._seconds = seconds
        # Under which address it has its place.
        self._place = place
        self._context = context
        # Of the first request, which has begun already; later ones have their own time.
        self._due: float | None = due
        self._deadline: asyncio.TimerHandle | None = None
        self._write_deadline: asyncio.TimerHandle | None = None
        # Of the request that comes in now: bytes of its head, and whether there is more to come.
        self._head = 0
        self._in_head = False
        self._incomplete = True
        self._failure: tuple[str, int, str] | None = None
        self._over = False
        # What came in behind a request that is not answered yet.
        self._unread = bytearray()
        self._scheduled = False

    @property
    def _address(self) -> str:
        return self.client[0] if self.client else ""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn's own narrowing
        super().connection_made(transport)
        # Told of the first byte that waits: small answers that nobody reads wait as well.
        transport.set_write_buffer_limits(high=0)
        self._begin()

    # ------------------------------------------------------------------ what comes in

    def data_received(self, data: bytes) -> None:
        if self._over:
            return
        self._unset_keepalive_if_required()
        self._unread += data
        self._read_soon()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._read_soon()

    @property
    def _busy(self) -> bool:
        """Whether a request that is there completely waits for its answer."""
        cycle = self._cycle
        if cycle is None or cycle.response_complete:
            return False
        # Its own body may still come; the next one's head may not.
        return self._in_head or not self._incomplete

    def _read_on(self) -> None:
        """Read requests one after the other, each when those before it are answered."""
        self._scheduled = False
        read = 0
        while self._unread and not self._over and not self._busy and read < _TURN_BYTES:
            data = bytes(self._unread[:_SLICE])
            del self._unread[:_SLICE]
            read += len(data)
            self._feed(data)
        if self._over:
            return
        if self._unread:
            self.flow.pause_reading()
            self._read_soon()
        elif not self._busy:
            self.flow.resume_reading()

    def _read_soon(self) -> None:
        """In this turn, unless others' requests are this turn's already."""
        if self._unread and not (self._over or self._busy or self._scheduled):
            self._scheduled = True
            self.flow.pause_reading()
            self._context.requests.add(self._read_on)

    def _feed(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._upgrade(data[upgrade.args[0] :] + bytes(self._unread))
            return
        except httptools.HttpParserError as error:
            self._fail(*(self._failure or ("malformed", 400, str(error))))
            return
        if self._in_head:
            self._head += len(data)
            if self._head > MAX_HEAD:
                self._fail("too_large", 431, "head")
                return
        if self._incomplete:
            self._begin()
        else:
            self._end()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head = 0
        self._in_head = self._incomplete = True

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._head += len(name) + len(value) + 4

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self._head + len(self.url) > MAX_HEAD:
            self._fail_in_parser("too_large", 431, "head")
        version = self.parser.get_http_version()
        if version not in ("1.0", "1.1"):
            self._fail_in_parser("malformed", 505, "version")
        hosts = sum(name == b"host" for name, _ in self.headers)
        if hosts > 1 or (version == "1.1" and not hosts):
            # RFC 9112, 3.2.
            self._fail_in_parser("malformed", 400, "one Host is needed")
        codings = [value.lower() for name, value in self.headers if name == b"transfer-encoding"]
        if codings and version == "1.0":
            # RFC 9112, 6.1: its framing is to be treated as faulty.
            self._fail_in_parser("malformed", 400, "Transfer-Encoding in HTTP/1.0")
        if codings not in ([], [b"chunked"]):
            self._fail_in_parser("malformed", 501, "a transfer coding other than chunked")
        before = self._cycle
        super().on_headers_complete()
        if self._cycle is not None and self._cycle is not before:
            self._cycle.transport = cast("asyncio.Transport", _SafeWriter(self.transport))

    def on_message_complete(self) -> None:
        self._incomplete = False
        super().on_message_complete()

    def _fail_in_parser(self, reason: str, status: int, detail: str) -> None:
        self._failure = reason, status, detail
        # The parser ends by it, and tells whoever fed it.
        raise ValueError(detail)

    def _fail(self, reason: str, status: int, detail: str) -> None:
        """This cannot be read, nor anything after it."""
        self._over = True
        self._end()
        self._context.refusals.count(reason, self._address, detail)
        cycle = self._cycle
        if cycle is not None and not cycle.response_complete:
            # An answer to what came before is on its way: it is the last one.
            cycle.keep_alive = False
            self.pipeline.clear()
            return
        headers = self.server_state.default_headers
        self._farewell(refusal(status, headers, f"{status}\n".encode()))

    def _farewell(self, last: bytes) -> None:
        self._let_go()
        LingeringClose(self._context, self.transport, last)

    def _let_go(self) -> None:
        """The transport is somebody else's now, and nothing of this one may stay behind."""
        self._over = True
        self._unread.clear()
        self._leave()
        # It refers to this object by each of its callbacks.
        self.parser = None  # type: ignore[assignment]  # as uvicorn does at the end

    # ------------------------------------------------------------------ WebSockets, and other ways

    def _should_upgrade_to_ws(self) -> bool:
        return True

    def _upgrade(self, early: bytes) -> None:
        self._end()
        if not self._should_upgrade():
            # It is answered as the request that it is, and nothing is read behind it.
            self._over = True
            if self._cycle is not None:
                self._cycle.keep_alive = False
            return
        if self._cycle is not None and not self._cycle.response_complete:
            self._fail("malformed", 400, "a handshake behind an unanswered request")
            return
        request: dict[str, Any] = {**self.scope, **request_target(self.url, self.root_path)}
        self._let_go()
        protocol = WebSocketConnection(self._context, self.transport)
        self.transport.set_protocol(protocol)
        # While requests wait for their turn nothing is read; from here on its frames are.
        if not self.transport.is_reading():
            self.transport.resume_reading()
        if self.flow.write_paused:
            protocol.pause_writing()
        protocol.upgrade(request, early)

    # ------------------------------------------------------------------ time

    @property
    def _cycle(self) -> RequestResponseCycle | None:
        # None before the first request, whatever uvicorn's annotation says.
        return cast("RequestResponseCycle | None", self.cycle)

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
        if self.transport.is_closing():
            return
        if self._busy:
            # It is not read from: the rest may be there.
            self._begin()
            return
        cycle = self._cycle
        self._context.refusals.count("too_slow", self._address)
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            self.transport.close()
        elif self._in_head or cycle is None:
            self._farewell(refusal(408, (), b""))
        else:
            # It was answered before its body was whole.
            self._farewell(b"")

    def pause_writing(self) -> None:
        super().pause_writing()
        size = self.transport.get_write_buffer_size()
        limits = self._context.limits
        victims = limits.hold(self, self._address, size)
        if self not in victims and self._write_deadline is None:
            self._write_deadline = self.loop.call_later(
                limits.seconds(size), self.give_up, "slow_reader"
            )
        for victim in victims:
            assert isinstance(victim, HttpConnection)
            victim.give_up("over_queue")

    def resume_writing(self) -> None:
        self._taken()
        super().resume_writing()

    def _taken(self) -> None:
        self._context.limits.drained(self)
        if self._write_deadline is not None:
            self._write_deadline.cancel()
            self._write_deadline = None

    def give_up(self, reason: str) -> None:
        """Drop the connection with whatever waits for it."""
        self._taken()
        self._context.refusals.count(reason, self._address)
        self._over = True
        if self._cycle is not None:
            # What it writes before it is told would raise in the middle of the application.
            self._cycle.disconnected = True
        self.transport.abort()

    # ------------------------------------------------------------------ the end

    def connection_lost(self, exc: Exception | None) -> None:
        self._over = True
        self._unread.clear()
        self._leave()
        super().connection_lost(exc)

    def _leave(self) -> None:
        self._end()
        self._taken()
        if self in self.connections:
            self.connections.discard(self)
            self._context.limits.release(self._place)
