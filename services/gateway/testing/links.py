"""For tests of the send path: a link and an event loop in memory, and what a client reads."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from services.gateway.clients.session import Session, SessionHost
from services.gateway.websocket.rfc6455.deflate import WINDOW_BITS
from services.gateway.websocket.transport import ClientTransport, TransportListener


class MemoryTransport(ClientTransport):
    """A transport that takes bytes until it is full, and is emptied by the test."""

    def __init__(self, fd: int, *, deflated: bool) -> None:
        self._fd = fd
        self.deflated = deflated
        self.ended = "client"
        self.wire = b""
        self.newest = b""
        self.writes = 0
        self.stuck = False
        self._held = 0
        self.listener: TransportListener

    @property
    def paused(self) -> bool:
        return self._held > 0

    @property
    def buffered(self) -> int:
        return self._held

    @property
    def ready(self) -> bool:
        return not self.paused

    @property
    def fd(self) -> int:
        return self._fd

    def send(self, frames: bytes) -> int:
        assert not self.paused, "written to although it asked not to"
        assert frames
        if self.stuck and self.writes % 2:
            raise BlockingIOError
        taken = len(frames) // 2 if self.stuck else len(frames)
        self.wire += frames[:taken]
        self.newest = frames
        self.writes += 1
        return taken

    def write(self, frames: bytes | memoryview) -> bool:
        assert not self.paused, "written to although it asked not to"
        assert len(frames)
        self.wire += frames
        self.writes += 1
        if self.stuck:
            self._held = len(frames)
            self.listener.on_pause()
        return True

    def unstick(self) -> None:
        self.stuck = False
        if self.paused:
            self._held = 0
            self.listener.on_resume()

    def close(self, code: int, reason: str) -> None:
        raise AssertionError((code, reason))

    def pause_reading(self) -> None:
        raise AssertionError

    def resume_reading(self) -> None:
        raise AssertionError


class Nowhere(SessionHost):
    """A place for sessions that receive nothing and never leave."""

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        raise AssertionError((work, name))

    def left(self, session: Session) -> None:
        raise AssertionError(session)


class Clock:
    """The hub's event loop: what it scheduled runs when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0
        self.soon: list[Callable[[], None]] = []
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def at(self, when: float, call: Callable[[], None]) -> None:
        self.timers.append((when, call))

    def turn(self) -> None:
        """The end of the event loop's turn."""
        calls = self.soon[:]
        # The hub holds on to this list's `append`.
        self.soon.clear()
        for call in calls:
            call()

    def until(self, when: float) -> None:
        """Let time pass; timers that fall due are called in order."""
        while self.timers and min(due for due, _ in self.timers) <= when:
            timer = min(self.timers, key=lambda one: one[0])
            self.timers.remove(timer)
            self.now = max(self.now, timer[0])
            timer[1]()
            self.turn()
        self.now = max(self.now, when)


def payloads_read(wire: bytes, *, deflated: bool) -> Iterator[bytes]:
    """The messages as a client reads them that forgets each before the next."""
    at = 0
    while at < len(wire):
        first, size = wire[at], wire[at + 1]
        width = {126: 2, 127: 8}.get(size, 0)
        begin = at + 2 + width
        size = int.from_bytes(wire[at + 2 : begin]) if width else size
        payload, at = wire[begin : begin + size], begin + size
        if first & 0x40:
            assert deflated
            inflate = zlib.decompressobj(-WINDOW_BITS)
            payload = inflate.decompress(payload + b"\x00\x00\xff\xff") + inflate.flush()
        yield payload
