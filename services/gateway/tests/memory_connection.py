"""An open WebSocket connection without a socket: its transport and event loop are the test's."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from services.gateway.testing.wire import CLOSE
from services.gateway.websocket.connection import WebSocketConnection
from services.gateway.websocket.server_context import ReadLimits, ServerContext
from services.gateway.websocket.transport import TransportListener


class Transport:
    """Takes bytes until it is `full`, and tells its protocol as asyncio's transports do."""

    def __init__(self) -> None:
        self.protocol: WebSocketConnection
        self.full = False
        self.reading = True
        self.sent = b""
        self.held = b""

    def get_extra_info(self, _name: str) -> None:
        return None

    def is_closing(self) -> bool:
        return False

    def can_write_eof(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return len(self.held)

    def write(self, data: bytes) -> None:
        if not self.full:
            self.sent += data
        elif data:
            self.held += data
            self.protocol.pause_writing()

    def drain(self) -> None:
        self.sent, self.held = self.sent + self.held, b""
        self.protocol.resume_writing()

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


class Nothing:
    """A keepalive that keeps nobody."""

    def add(self, one: Any) -> None: ...

    def remove(self, one: Any) -> None: ...


class Texts(TransportListener):
    """Notes what it is told."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.waiting = b""
        self.link: WebSocketConnection
        self.said: list[str] = []

    def on_text(self, text: str) -> None:
        self.texts.append(text)

    def on_binary(self, data: bytes) -> None:
        raise AssertionError(data)

    def on_pause(self) -> None:
        self.said.append("pause")

    def on_resume(self) -> None:
        self.said.append("resume")
        if self.waiting:
            waiting, self.waiting = self.waiting, b""
            self.link.write(waiting)

    def on_closed(self) -> None:
        self.said.append(self.link.ended)


class Calls:
    """The event loop's part: what was to be called in the next turn, and later."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.soon: list[Callable[[], None]] = []
        self.later: list[tuple[float, Callable[[], None]]] = []

    def time(self) -> float:
        return self.now

    def call_soon(self, call: Callable[[], None]) -> None:
        self.soon.append(call)

    def call_later(self, seconds: float, call: Callable[..., None], *args: Any) -> Any:
        self.later.append((self.now + seconds, partial(call, *args)))
        return asyncio.TimerHandle(0, call, args, cast("asyncio.AbstractEventLoop", self))

    def get_debug(self) -> bool:
        return False

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        # A handle's callback is forgotten when it is cancelled; the entry stays and does nothing.
        del handle

    def turn(self) -> None:
        soon, self.soon = self.soon, []
        for call in soon:
            call()

    def until(self, when: float) -> None:
        self.now = when
        due = [call for at, call in self.later if at <= when]
        self.later = [one for one in self.later if one[0] > when]
        for call in due:
            call()


class Connection:
    """An open one, in memory."""

    def __init__(self) -> None:
        self.calls = Calls()
        self.transport = Transport()
        # Not asked for by an open connection.
        no: Any = None
        calls: Any = self.calls
        keepalive: Any = Nothing()
        context = ServerContext(*(no, no, {}, calls, keepalive, no, no, no), ReadLimits(1 << 20))
        self.protocol = WebSocketConnection(context, cast("asyncio.Transport", self.transport))
        self.transport.protocol = self.protocol
        self.protocol._state = 1
        self.heard = Texts()
        self.heard.link = self.protocol
        self.protocol.hand_over(self.heard)

    def close_code(self) -> int | None:
        at = self.transport.sent.find(bytes((0x80 | CLOSE,)))
        return None if at < 0 else int(struct.unpack_from("!H", self.transport.sent, at + 2)[0])
