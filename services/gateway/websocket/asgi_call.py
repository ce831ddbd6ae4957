"""One ASGI call for a WebSocket: its handshake, and its messages until a listener takes over."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from services.gateway.websocket.rfc6455.frames import text_frame
from services.gateway.websocket.rfc6455.handshake import Header
from services.gateway.websocket.transport import TransportListener

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
