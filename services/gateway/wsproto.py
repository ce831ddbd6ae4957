"""The socket under a WebSocket: uvicorn's protocol class with a way past ASGI for data.

FastAPI keeps the handshake, receiving and closing. Data is framed elsewhere, once for all clients,
and written straight to the transport by `write`. The object offers itself to the endpoint in
`scope["extensions"]["mdf.link"]`; under any other server it is absent and `AsgiLink` serves.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qsl, urlencode

import msgspec
from starlette.websockets import WebSocket
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.extensions.permessage_deflate import (
    PerMessageDeflate,
    ServerPerMessageDeflateFactory,
)
from websockets.http11 import Request

from services.gateway.deflate import WINDOW_BITS
from services.gateway.frames import payloads_of, text_frame
from services.gateway.protocol import MAX_MESSAGE_BYTES, TOO_LARGE

EXTENSION = "mdf.link"
# Messages up to this size are read, refused with an error and survived; larger ones end the
# connection (1009), since reading them would let strangers fill the memory.
MAX_READ_BYTES = 1024 * 1024
# Data the kernel holds unsent for one client. By default it would take megabytes for a stuck one.
_NOTSENT_LOWAT = 16 * 1024
_HIGH_WATER = 64 * 1024
_LINGER_S = 2.0
# No context in either direction: frames are shared by all clients, and none costs memory.
_DEFLATE = ServerPerMessageDeflateFactory(
    server_no_context_takeover=True,
    client_no_context_takeover=True,
    server_max_window_bits=WINDOW_BITS,
    client_max_window_bits=WINDOW_BITS,
)


class Link(ABC):
    """A client's socket as the session sees it: whole frames in, backpressure out."""

    @property
    @abstractmethod
    def paused(self) -> bool:
        """Whether something written before still waits, so that no more should be."""

    @property
    @abstractmethod
    def ready(self) -> bool:
        """Whether `fd` may be written to now; `on_pause` is called when no longer."""

    @property
    @abstractmethod
    def fd(self) -> int:
        """The socket's descriptor, to write to while `ready`; negative: it has none for that.

        What the kernel does not take has to be given to `write` before anything else is.
        """

    @property
    @abstractmethod
    def deflated(self) -> bool:
        """Whether the client agreed to frames that `deflate` compressed."""

    @abstractmethod
    def write(self, frames: bytes | memoryview) -> bool:
        """Write whole text frames; False when the connection is closing and nothing was written."""

    @abstractmethod
    def listen(self, on_pause: Callable[[], None], on_resume: Callable[[], None]) -> None:
        """Have these called when `paused` changes.

        `on_pause` also when a close frame went out, `on_resume` also when the connection is lost.
        """

    @property
    @abstractmethod
    def buffered(self) -> int:
        """Bytes that wait in this process's transport."""

    @abstractmethod
    def abort(self) -> None:
        """Drop the connection without another byte."""


class GatewayProtocol(WebSocketsSansIOProtocol, Link):
    """For `uvicorn.Config(ws=GatewayProtocol)`."""

    api_key: str | None = None
    _paused = False
    _lingering = False
    _on_pause: Callable[[], None] | None = None
    _on_resume: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        # Who writes past the transport has to know when anything at all waits in it.
        self.transport.set_write_buffer_limits(high=0)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            with contextlib.suppress(OSError, AttributeError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _NOTSENT_LOWAT)

    def handle_connect(self, event: Request) -> None:
        if self.config.ws_per_message_deflate:
            self.conn.available_extensions = [_DEFLATE]
        super().handle_connect(event)
        scope: Any = getattr(self, "scope", None)
        if scope is not None:
            scope["extensions"][EXTENSION] = self
            self._hide_key(scope)

    def _hide_key(self, scope: Any) -> None:
        # uvicorn logs the query string of every accepted connection; a key must not be in it.
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        keys = [value for name, value in query if name == "api_key"]
        if keys:
            self.api_key = keys[0]
            rest = [(name, value) for name, value in query if name != "api_key"]
            scope["query_string"] = urlencode(rest).encode("ascii")

    @property
    def paused(self) -> bool:
        return self._paused

    @property
    def buffered(self) -> int:
        return self.transport.get_write_buffer_size()

    def listen(self, on_pause: Callable[[], None], on_resume: Callable[[], None]) -> None:
        self._on_pause = on_pause
        self._on_resume = on_resume

    @property
    def _open(self) -> bool:
        # Nothing may follow a close frame, and nothing may come before the handshake's answer.
        return not (
            self.close_sent
            or self.disconnected
            or not self.handshake_complete
            or self.transport.is_closing()
        )

    @property
    def ready(self) -> bool:
        return self._open and not self._paused

    @property
    def fd(self) -> int:
        # A transport's own `write` costs a fifth more CPU than the system call does. It closes the
        # descriptor after `connection_lost`, not before.
        sock = self.transport.get_extra_info("socket")
        if sock is None or self.transport.get_extra_info("sslcontext") is not None:
            return -1
        return int(sock.fileno())

    @property
    def deflated(self) -> bool:
        # Who cannot look back as far as the shared frames do gets plain ones.
        return any(
            isinstance(extension, PerMessageDeflate)
            and extension.local_max_window_bits >= WINDOW_BITS
            for extension in self.conn.extensions
        )

    def write(self, frames: bytes | memoryview) -> bool:
        if not self._open:
            return False
        self.transport.write(frames)
        return True

    def abort(self) -> None:
        self.transport.abort()

    def pause_writing(self) -> None:
        # For plain ASGI sends, which wait for it.
        if self.buffered > _HIGH_WATER:
            super().pause_writing()
        self._paused = True
        if self._on_pause is not None:
            self._on_pause()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._paused = False
        if self._on_resume is not None:
            self._on_resume()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._note_end()
        # Whoever waits for room is let go; what it writes then is refused.
        self._paused = False
        if self._on_resume is not None:
            self._on_resume()
            self._on_pause = self._on_resume = None

    def keepalive_timeout(self) -> None:
        if self._paused:
            # The ping itself still waits here behind data: that is a slow reader, and for those
            # the session has its own measure.
            self.pong_timer = None
            self.pending_ping_payload = None
            self.schedule_ping()
            return
        super().keepalive_timeout()
        self._note_end()

    def shutdown(self) -> None:
        super().shutdown()
        self._note_end()

    def _note_end(self) -> None:
        if not self._open and self._on_pause is not None:
            self._on_pause()

    def data_received(self, data: bytes) -> None:
        if not self._lingering:
            super().data_received(data)
            # It may have been a close frame, or what is answered by one.
            self._note_end()

    def eof_received(self) -> None:
        if self._lingering:
            self.transport.close()

    def handle_parser_exception(self) -> None:
        closing = self.conn.close_sent
        if closing is None or closing.code != 1009:
            super().handle_parser_exception()
            return
        # Closing now would reset the connection under a client that still sends, and it would
        # never read why. So it is told, and what it sends is thrown away for a while.
        error = {
            "type": "error",
            "code": TOO_LARGE.code,
            "name": TOO_LARGE.name,
            "message": f"messages have at most {MAX_MESSAGE_BYTES} bytes; closing",
            "retry": TOO_LARGE.retry,
        }
        self.write(text_frame(msgspec.json.encode(error)))
        self.queue.put_nowait(
            {"type": "websocket.disconnect", "code": 1009, "reason": closing.reason}
        )
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self._lingering = True
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        self.close_timer = self.loop.call_later(_LINGER_S, self.transport.close)


class AsgiLink(Link):
    """Plain ASGI sends, for any other server: a task writes, its backlog is the backpressure."""

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket
        self._waiting: list[bytes] = []
        self._size = 0
        self._wake = asyncio.Event()
        self._closed = False
        self._on_pause: Callable[[], None] | None = None
        self._on_resume: Callable[[], None] | None = None

    @property
    def paused(self) -> bool:
        return self._size > _HIGH_WATER

    @property
    def buffered(self) -> int:
        return self._size

    def listen(self, on_pause: Callable[[], None], on_resume: Callable[[], None]) -> None:
        self._on_pause = on_pause
        self._on_resume = on_resume

    @property
    def ready(self) -> bool:
        return not self._closed and not self.paused

    @property
    def fd(self) -> int:
        return -1

    @property
    def deflated(self) -> bool:
        # Whether and how it compresses is the other server's to say.
        return False

    def write(self, frames: bytes | memoryview) -> bool:
        if self._closed:
            return False
        was_paused = self.paused
        self._waiting.append(bytes(frames))
        self._size += len(frames)
        self._wake.set()
        if self.paused and not was_paused and self._on_pause is not None:
            self._on_pause()
        return True

    def abort(self) -> None:
        self._closed = True
        self._wake.set()

    async def run(self) -> None:
        """Send what is written until the connection ends; run it as a task of the session."""
        send: Callable[[str], Awaitable[None]] = self._websocket.send_text
        while not self._closed:
            await self._wake.wait()
            self._wake.clear()
            waiting, self._waiting = self._waiting, []
            was_paused = self.paused
            for frames in waiting:
                for payload in payloads_of(frames):
                    await send(payload.decode())
                self._size -= len(frames)
            if was_paused and not self.paused and self._on_resume is not None:
                self._on_resume()
