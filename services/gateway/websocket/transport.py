"""A client's socket as the session sees it: whole frames out, whole messages in."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any

from services.gateway.websocket.frames import payloads_of

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

# Bytes in this process above which a server that is not ours is given no more.
_HIGH_WATER = 64 * 1024


class TransportListener(ABC):
    """Whoever is called back by a link; nothing here may raise or take long."""

    __slots__ = ()

    @abstractmethod
    def on_text(self, text: str) -> None: ...

    @abstractmethod
    def on_binary(self, data: bytes) -> None: ...

    @abstractmethod
    def on_pause(self) -> None:
        """The link is paused from now on."""

    @abstractmethod
    def on_resume(self) -> None:
        """It no longer is."""

    @abstractmethod
    def on_closed(self) -> None:
        """It is over, whoever ended it; nothing is written any more. Called once."""


class ClientTransport(ABC):
    """Of one client. Written to without waiting; backpressure is `paused`."""

    __slots__ = ()

    @property
    @abstractmethod
    def deflated(self) -> bool:
        """Whether the client agreed to compressed frames without context takeover."""

    @abstractmethod
    def write(self, frames: bytes | memoryview) -> bool:
        """Write whole text frames; False when the connection is closing and nothing was written."""

    @property
    @abstractmethod
    def paused(self) -> bool:
        """Whether something written before still waits, so that no more should be."""

    @property
    @abstractmethod
    def ready(self) -> bool:
        """Whether `fd` may be written to now; `on_pause` or `on_closed` tell when no longer."""

    @property
    @abstractmethod
    def fd(self) -> int:
        """The socket's descriptor, to write to while `ready`; negative: it has none for that.

        What the kernel does not take has to be given to `write` before anything else is.
        """

    @property
    @abstractmethod
    def buffered(self) -> int:
        """Bytes that wait in this process's transport."""

    @property
    def peer(self) -> str:
        """The address at the other end; empty when it is not known."""
        return ""

    @property
    def ended(self) -> str:
        """Why it is over, if its listener did not close it.

        `client`, `violation`, `abuse`, `ping_timeout` or `service_restart`.
        """
        return "client"

    @abstractmethod
    def pause_reading(self) -> None:
        """Take nothing more from the client for now; a few messages may still come."""

    @abstractmethod
    def resume_reading(self) -> None: ...

    @abstractmethod
    def close(self, code: int, reason: str) -> None:
        """Write a close frame behind what was written; who takes nothing is dropped in the end."""


class AsgiTransport(ClientTransport):
    """Plain ASGI sends, for any server but ours: a task writes, its backlog is the backpressure."""

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

    @property
    def fd(self) -> int:
        return -1

    @property
    def deflated(self) -> bool:
        # Whether and how it compresses is the other server's to say.
        return False

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
