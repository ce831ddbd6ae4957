"""WebSockets by plain ASGI messages.

`AsgiCall` is one call of this package's own server: a handshake, and its messages until a listener
takes over. `AsgiTransport` is a client's transport under any other server.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from services.gateway.websocket.rfc6455.frames import payloads_of, text_frame
from services.gateway.websocket.rfc6455.handshake import Header
from services.gateway.websocket.transport import ClientTransport, TransportListener

if TYPE_CHECKING:
    from services.gateway.websocket.connection import WebSocketConnection

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

log = logging.getLogger("uvicorn.error")


class ClientGone(OSError):
    """An application sends to a client that is gone; what ASGI wants raised."""


class AsgiCall(TransportListener):
    """Whoever listens while the application talks ASGI; forgotten when another one takes over."""

    __slots__ = ("_answer", "_events", "_room", "_state", "_transport")

    def __init__(self, transport: WebSocketConnection) -> None:
        self._transport = transport
        self._events: asyncio.Queue[Message] = asyncio.Queue()
        self._events.put_nowait({"type": "websocket.connect"})
        self._room = asyncio.Event()
        self._answer: tuple[int, list[Header], bytes] | None = None
        self._state = "connecting"

    async def run(self, app: Any, scope: Message) -> None:
        """Call the application. Whatever it does, the client gets an answer and an end."""
        try:
            await app(scope, self._receive, self._send)
        except ClientGone:
            # It found out by sending, which is as good as any other way.
            return
        except Exception:  # as every ASGI server does: it ends its own connection only
            log.exception("application_failed")
            self._end(500, 1011)
        else:
            self._end(500, 1000)

    def detach(self) -> None:
        """Another listener has taken over; the application has no more to say."""
        self._state = "over"

    def _end(self, status: int, code: int) -> None:
        if self._state == "connecting":
            self._state = "over"
            self._transport.refuse(status, [], b"")
        elif self._state == "open":
            self._transport.close(code, "")

    # ------------------------------------------------------------------ the application's side

    async def _receive(self) -> Message:
        message = await self._events.get()
        if self._events.empty():
            self._transport.resume_reading()
        return message

    async def _send(self, message: Message) -> None:
        kind = message["type"]
        if self._state == "connecting":
            self._connect(kind, message)
        elif self._state == "over":
            raise ClientGone("the client is gone")
        elif kind == "websocket.close":
            self._transport.close(message.get("code", 1000), message.get("reason") or "")
        elif kind == "websocket.send":
            while self._transport.paused:
                self._room.clear()
                await self._room.wait()
            data, text = message.get("bytes"), message.get("text")
            if data is not None:
                self._transport.write_binary(data)
            else:
                self._transport.write(text_frame((text or "").encode()))
        else:
            raise RuntimeError(f"{kind} in the middle of a connection")

    def _connect(self, kind: str, message: Message) -> None:
        headers = list(message.get("headers", []))
        if kind == "websocket.accept":
            self._state = "open"
            self._transport.accept(message.get("subprotocol"), headers)
        elif kind == "websocket.close":
            self._refuse(403, [], b"")
        elif kind == "websocket.http.response.start" and self._answer is None:
            self._answer = message["status"], headers, b""
        elif kind == "websocket.http.response.body" and self._answer is not None:
            status, headers, body = self._answer
            body += message.get("body", b"")
            self._answer = status, headers, body
            if not message.get("more_body", False):
                self._refuse(status, headers, body)
        else:
            raise RuntimeError(f"{kind} instead of an answer to the handshake")

    def _refuse(self, status: int, headers: list[Header], body: bytes) -> None:
        self._state = "over"
        self._transport.refuse(status, headers, body)
        self._events.put_nowait({"type": "websocket.disconnect", "code": 1006})

    # ------------------------------------------------------------------ the client's side

    def on_text(self, text: str) -> None:
        self._transport.pause_reading()
        self._events.put_nowait({"type": "websocket.receive", "text": text})

    def on_binary(self, data: bytes) -> None:
        self._transport.pause_reading()
        self._events.put_nowait({"type": "websocket.receive", "bytes": data})

    def on_pause(self) -> None:
        """`_send` looks for itself."""

    def on_resume(self) -> None:
        self._room.set()

    def on_closed(self) -> None:
        self._state = "over"
        self._room.set()
        self._events.put_nowait({"type": "websocket.disconnect", "code": 1005, "reason": ""})


# Bytes in this process above which the server is given no more.
_HIGH_WATER = 64 * 1024


class AsgiTransport(ClientTransport):
    """A task sends what was written; what it has yet to send is the backpressure."""

    # Whether and how it compresses is the other server's to say.
    deflated = False
    ended = "client"
    fd = -1

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._waiting: list[bytes] = []
        self._size = 0
        self._wake = asyncio.Event()
        self._may_read = asyncio.Event()
        self._may_read.set()
        self._closing: Message | None = None
        self._listener: TransportListener | None = None

    @property
    def paused(self) -> bool:
        return self._size > _HIGH_WATER

    @property
    def buffered(self) -> int:
        return self._size

    @property
    def ready(self) -> bool:
        return self._closing is None and not self.paused

    def write(self, frames: bytes | memoryview) -> bool:
        if self._closing is not None:
            return False
        was_paused = self.paused
        self._waiting.append(bytes(frames))
        self._size += len(frames)
        self._wake.set()
        if self.paused and not was_paused and self._listener is not None:
            self._listener.on_pause()
        return True

    def pause_reading(self) -> None:
        self._may_read.clear()

    def resume_reading(self) -> None:
        self._may_read.set()

    def close(self, code: int, reason: str) -> None:
        if self._closing is None:
            self._closing = {"type": "websocket.close", "code": code, "reason": reason}
            self._wake.set()
            self._end()

    async def run(self, listener: TransportListener) -> None:
        """Serve the listener until the connection ends; the socket is accepted already."""
        self._listener = listener
        async with asyncio.TaskGroup() as group:
            writing = group.create_task(self._write_all(), name="asgi-writer")
            reading = group.create_task(self._read_all(listener), name="asgi-reader")
            try:
                await asyncio.wait((writing, reading), return_when=asyncio.FIRST_COMPLETED)
            finally:
                writing.cancel()
                reading.cancel()
                self._closing = self._closing or {"type": "websocket.close"}
                self._end()

    async def _read_all(self, listener: TransportListener) -> None:
        while True:
            await self._may_read.wait()
            message = await self._receive()
            if message["type"] != "websocket.receive":
                return
            text = message.get("text")
            if text is None:
                listener.on_binary(message["bytes"])
            else:
                listener.on_text(text)

    async def _write_all(self) -> None:
        # RuntimeError is ASGI's word for sending after the end.
        with suppress(RuntimeError, OSError):
            while True:
                await self._wake.wait()
                self._wake.clear()
                waiting, self._waiting = self._waiting, []
                was_paused = self.paused
                for frames in waiting:
                    for payload in payloads_of(frames):
                        await self._send({"type": "websocket.send", "text": payload.decode()})
                    self._size -= len(frames)
                if self._closing is not None:
                    await self._send(self._closing)
                    return
                if was_paused and not self.paused and self._listener is not None:
                    self._listener.on_resume()

    def _end(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.on_closed()
