"""A client's transport by plain ASGI messages, under any server but this package's own."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from services.gateway.websocket.asgi_call import Message, Receive, Send
from services.gateway.websocket.rfc6455.frames import payloads_of
from services.gateway.websocket.transport import ClientTransport, TransportListener

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
