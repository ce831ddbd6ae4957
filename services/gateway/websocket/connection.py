"""The socket under a WebSocket: frames straight to and from the transport.

FastAPI routes the handshake and the endpoint decides on it by ASGI. Then the endpoint hands the
connection over to a listener, and returns: from there on no task, no queue and nothing of the
request is kept for it. The scope's `extensions` hold the connection as `mdf.transport`; any other
server has none, and there `AsgiTransport` serves.
"""

from __future__ import annotations

import asyncio
import struct
from typing import Any

from services.gateway.websocket.asgi import AsgiCall
from services.gateway.websocket.ends import CLOSE_S, LINGER_S, Closing, Opening, websocket_scope
from services.gateway.websocket.framing import FrameReader, FrameWriter
from services.gateway.websocket.rfc6455 import deflate, handshake
from services.gateway.websocket.rfc6455.frames import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    CloseCode,
    close_frame,
    frame,
    text_frame,
)
from services.gateway.websocket.rfc6455.handshake import Header, Refused
from services.gateway.websocket.rfc6455.inbound import Receiver
from services.gateway.websocket.rfc6455.keepalive import Pinged
from services.gateway.websocket.server_context import ServerContext, peer_of, run_handshake
from services.gateway.websocket.transport import ClientTransport, TransportListener

_UPGRADING, _OPEN, _CLOSING, _LINGERING, _CLOSED = range(5)


class WebSocketConnection(asyncio.Protocol, ClientTransport, Receiver, Pinged):
    """One WebSocket; takes over the transport of an HTTP connection that asks for an upgrade."""

    __slots__ = (
        *("_closing", "_context", "_listener", "_opening", "_reader", "_state", "_writer"),
        *("deflated", "ended", "transport"),
    )

    def __init__(self, context: ServerContext, transport: asyncio.Transport) -> None:
        super().__init__()
        self.transport = transport
        self._context = context
        self._state = _UPGRADING
        self._opening: Opening | None = None
        self.deflated = False
        self._reader = FrameReader(context, transport, self)
        self._writer = FrameWriter(transport)
        self._listener: TransportListener | None = None
        self._closing: Closing | None = None
        self.ended = ""

    # ------------------------------------------------------------------ the handshake

    def upgrade(self, request: dict[str, Any], early: bytes) -> None:
        """Answer a request (an ASGI scope of HTTP); `early` came behind it already."""
        context, headers = self._context, request["headers"]
        context.state.connections.add(self)  # type: ignore[arg-type]  # uvicorn names its own
        # Who writes past the transport has to know when anything at all waits in it.
        self.transport.set_write_buffer_limits(high=0)
        try:
            key = handshake.accept_key(request["method"], request["http_version"], headers)
        except Refused as refused:
            self.refuse(refused.status, list(refused.headers), f"{refused.reason}\n".encode())
            return
        opening = self._opening = Opening(key, [early] if early else [])
        if context.deflate and (agreed := deflate.agree(headers)) is not None:
            answer, self.deflated = agreed
            opening.extensions = [answer]
            self._reader = FrameReader(context, self.transport, self, deflate=True)
        call = self._listener = AsgiCall(self)
        scope = websocket_scope(context, request, self)
        opening.deciding = True
        run_handshake(
            call.run(context.config.loaded_app, scope), context.state.tasks, self.transport.abort
        )
        opening.deciding = False
        if self._writer.answer and not self.transport.is_closing():
            self._writer.write()

    def accept(self, subprotocol: str | None, headers: list[Header]) -> None:
        """Complete the handshake."""
        opening = self._opening
        if self._state != _UPGRADING or opening is None:
            return
        headers = [*self._context.state.default_headers, *opening.extensions, *headers]
        if subprotocol:
            headers.append((b"sec-websocket-protocol", subprotocol.encode("latin-1")))
        self._state = _OPEN
        self._writer.answer = handshake.upgrade(opening.accept_key, headers)
        if not opening.deciding:
            self._writer.write()
        self._context.keepalive.add(self)
        if opening.early:
            # When the application has decided who listens.
            self._context.loop.call_soon(self._read_early)
        else:
            self._opening = None

    def _read_early(self) -> None:
        opening, self._opening = self._opening, None
        if opening is not None:
            for data in opening.early:
                self.data_received(data)
            self.resume_reading()

    def refuse(self, status: int, headers: list[Header], body: bytes) -> None:
        """Answer the handshake by an HTTP response, and end the connection."""
        if self._state == _UPGRADING:
            headers = [*self._context.state.default_headers, *headers]
            self.transport.write(handshake.refusal(status, headers, body))
            self._linger("client")

    def hand_over(self, listener: TransportListener) -> None:
        """Call this one back from now on; the ASGI call may return."""
        call, self._listener = self._listener, listener
        if isinstance(call, AsgiCall):
            call.detach()
        if self._writer.paused:
            # What was written before it came waits; it has to know from the beginning.
            listener.on_pause()
        if self._state != _OPEN:
            self._gone("client")

    # ------------------------------------------------------------------ writing

    @property
    def ready(self) -> bool:
        return self._state == _OPEN and self._writer.clear

    @property
    def fd(self) -> int:
        return self._writer.fd

    @property
    def peer(self) -> str:
        return peer_of(self.transport)

    @property
    def paused(self) -> bool:
        return self._writer.paused

    @property
    def buffered(self) -> int:
        return self._writer.buffered

    def write(self, frames: bytes | memoryview) -> bool:
        # Nothing may follow a close frame, and nothing may come before the handshake's answer.
        if self._state != _OPEN or self.transport.is_closing():
            return False
        self._writer.write(frames)
        return True

    def write_binary(self, data: bytes) -> bool:
        return self.write(frame(BINARY, data))

    def pause_writing(self) -> None:
        self._writer.paused = True
        if self._listener is not None:
            self._listener.on_pause()

    def resume_writing(self) -> None:
        self._writer.paused = False
        # First what waits for the client: its taking that is what it is judged by. A pong goes
        # with it; alone, it would be all that a client who pings and never reads is ever sent.
        if self._listener is not None:
            self._listener.on_resume()
        if self._writer.pong and not self._writer.paused:
            self.write(b"")

    # ------------------------------------------------------------------ reading

    def data_received(self, data: bytes) -> None:
        if self._opening is not None:
            self._opening.early.append(data)
            self.pause_reading()
        elif self._state == _OPEN:
            self._reader.feed(data)
        elif self._closing is not None and self._state in (_CLOSING, _LINGERING):
            self._closing.received += len(data)
            if not self._closing.throws_away:
                # It does not read either; what it reads of the end is its own affair now.
                self._reader.pause_transport()
            elif self._state == _CLOSING and self._closing.looks_for_close_frame:
                self._reader.feed(data)

    def pause_reading(self) -> None:
        if self._state in (_UPGRADING, _OPEN):
            self._reader.pause()

    def resume_reading(self) -> None:
        self._reader.resume()

    def on_text(self, text: str) -> None:
        if self._state == _OPEN and self._listener is not None:
            self._listener.on_text(text)

    def on_binary(self, data: bytes) -> None:
        if self._state == _OPEN and self._listener is not None:
            self._listener.on_binary(data)

    # ------------------------------------------------------------------ pings

    def on_ping(self, payload: bytes) -> None:
        if self._state != _OPEN or not self._allows_control_frame():
            return
        if not self._writer.paused:
            self.write(frame(PONG, payload))
        else:
            # RFC 6455, 5.5.3: the newest ping alone may be answered. One who pings and does not
            # read would fill the memory with answers otherwise.
            self._writer.pong = frame(PONG, payload)

    def on_pong(self, payload: bytes) -> None:
        if self.ping and payload == struct.pack("!I", self.ping):
            self.ping = 0
        elif self._state == _OPEN:
            self._allows_control_frame()

    def _allows_control_frame(self) -> bool:
        """Count one that was not asked for; False: it was one too many, and the connection ends."""
        if self._reader.allows_control_frame():
            return True
        self.on_violation(CloseCode.POLICY, "too many control frames")
        return False

    def send_ping(self, payload: bytes) -> None:
        self.write(frame(PING, payload))

    def ping_overdue(self) -> bool:
        if self._writer.paused:
            # The ping itself still waits here behind data: that is a slow reader, and for those
            # the session has its own measure.
            return False
        self.ended = "ping_timeout"
        self.close(CloseCode.INTERNAL, "no pong in time")
        return True

    # ------------------------------------------------------------------ the end

    def close(self, code: int, reason: str) -> None:
        if self._state != _OPEN:
            return
        if self.transport.is_closing():
            self._gone("client")
            return
        self._writer.write(close_frame(code, reason))
        self._state = _CLOSING
        self.resume_reading()
        self._end_within(CLOSE_S)
        self._gone("service_restart")

    def on_close(self, _code: int, payload: bytes) -> None:
        if self._state == _OPEN:
            self._writer.write(frame(CLOSE, payload))
        self._linger("client")

    def on_violation(self, code: CloseCode, reason: str) -> None:
        if self._state == _OPEN:
            if code is CloseCode.TOO_BIG and self._context.reading.too_large:
                self._writer.write(text_frame(self._context.reading.too_large))
            self._writer.write(close_frame(code, reason))
        self._linger("abuse" if code is CloseCode.POLICY else "violation")

    def shutdown(self) -> None:
        """The server goes away; by then everyone was told."""
        if self._state == _UPGRADING:
            self.refuse(503, [], b"")
        elif self._state == _OPEN:
            self._writer.write(close_frame(CloseCode.RESTART, ""))
            self._state = _CLOSING
            self._gone("service_restart")
        self.transport.close()

    def eof_received(self) -> None:
        """Nothing more comes; the transport closes itself when this returns."""

    def connection_lost(self, _exc: Exception | None) -> None:
        self._state = _CLOSED
        self._context.state.connections.discard(self)
        self._opening = None
        self._reader.end()
        if self._closing is not None:
            self._closing.cancel()
        # Whoever waits for room is let go; what it writes then is refused.
        self._writer.paused = False
        self._gone("client")

    def _linger(self, reason: str) -> None:
        """Everything was said: let the client read it, and end first (RFC 6455, 7.1.1)."""
        self._state = _LINGERING
        self._opening = None
        self._reader.end()
        self._reader.resume()
        self._reader.resume_transport()
        if self.transport.can_write_eof() and not self.transport.is_closing():
            self.transport.write_eof()
        self._end_within(LINGER_S)
        self._gone(reason)

    def _gone(self, reason: str) -> None:
        # What was said first.
        self.ended = self.ended or reason
        self._context.keepalive.remove(self)
        self._reader.stop_timing()
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.on_closed()

    def _end_within(self, seconds: float) -> None:
        if self._closing is None:
            self._closing = Closing(self.transport)
        self._closing.end_within(seconds, self._context.loop)
