"""One end of a TCP connection that exists in memory.

What the kernel does is kept where services can tell: a window, so that a reader that does not read
makes the writer wait; order; the end of a stream and the reset; a peer that is gone without a word,
which nobody learns of until it answers again.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from contextvars import Context, copy_context
from enum import Enum
from typing import TYPE_CHECKING, Any

from tests.simulation.machine import Process
from tests.simulation.network import Way

if TYPE_CHECKING:
    from tests.simulation.loop import SimulatedLoop

# What the kernels of both ends hold for a reader that does not read, in bytes.
_WINDOW = 256 * 1024
_SEGMENT = 64 * 1024
_HIGH_WATER = 64 * 1024
# How soon what did not arrive is sent again.
_AGAIN_NS = 200_000_000


class Signal(Enum):
    """What may follow the bytes of a direction."""

    END = "FIN"
    RESET = "RST"


class NoDescriptor:
    """What a transport gives out as its socket: takes options, and has no descriptor."""

    family = socket.AF_INET
    type = socket.SOCK_STREAM

    def __init__(self, own: tuple[str, int], peer: tuple[str, int]) -> None:
        self._own = own
        self._peer = peer

    def getsockname(self) -> tuple[str, int]:
        return self._own

    def getpeername(self) -> tuple[str, int]:
        return self._peer

    def setsockopt(self, *_option: Any) -> None:
        """Options change nothing here."""

    def getsockopt(self, *_option: Any) -> int:
        return 0

    def fileno(self) -> int:
        return -1


class SimulatedTransport(asyncio.Transport):
    """A connection as one of its two processes sees it."""

    peer: SimulatedTransport

    def __init__(
        self,
        loop: SimulatedLoop,
        process: Process,
        names: tuple[tuple[str, int], tuple[str, int]],
        way: Way,
    ) -> None:
        """`names` are its own address and the other end's; `way` leads to the other end."""
        own, other = names
        without = NoDescriptor(own, other)
        super().__init__({"sockname": own, "peername": other, "socket": without})
        self._loop = loop
        self._process = process
        self._way = way
        self._protocol: asyncio.BaseProtocol | None = None
        self._context: Context = copy_context()
        self._unsent: deque[bytes | Signal] = deque()
        self._unsent_bytes = 0
        self._unread_by_peer = 0
        self._leaves_ns = self._arrives_ns = 0
        self._arriving: deque[tuple[int, bytes | Signal]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._high, self._low = _HIGH_WATER, _HIGH_WATER // 4
        self._writing_paused = self._reading_paused = False
        self._closing = self._ended = self._lost = False
        process.transports[self] = None

    def begin(self, protocol: asyncio.BaseProtocol, context: Context) -> None:
        """Hand it to its protocol, whose callbacks run in `context`."""
        self._context = context
        self._protocol = protocol
        self._call(protocol.connection_made, self)
        self._take_arrived()

    @property
    def half_open(self) -> bool:
        """Whether the other end is gone and this one has not learnt of it."""
        return not self.peer._process.alive

    # -- writing

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._closing or self._ended or not data:
            return
        self._unsent.append(bytes(data))
        self._unsent_bytes += len(data)
        self._send()
        if self._unsent_bytes > self._high and not self._writing_paused:
            self._writing_paused = True
            self._call(self._stream_protocol().pause_writing)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        if not self._closing and not self._ended:
            self._ended = True
            self._unsent.append(Signal.END)
            self._send()

    def get_write_buffer_size(self) -> int:
        return self._unsent_bytes

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._low, self._high

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        if high is None:
            high = _HIGH_WATER if low is None else 4 * low
        self._high, self._low = high, high // 4 if low is None else low

    def _send(self) -> None:
        """Put on the way what the window has room for."""
        while self._unsent and (
            isinstance(self._unsent[0], Signal) or self._unread_by_peer < _WINDOW
        ):
            piece = self._unsent.popleft()
            if isinstance(piece, bytes):
                if len(piece) > _SEGMENT:
                    self._unsent.appendleft(piece[_SEGMENT:])
                    piece = piece[:_SEGMENT]
                self._unsent_bytes -= len(piece)
                self._unread_by_peer += len(piece)
            self._put_on_the_way(piece)
        if self._writing_paused and self._unsent_bytes <= self._low and not self._closing:
            self._writing_paused = False
            self._call(self._stream_protocol().resume_writing)
        if self._closing and not self._unsent and not self._lost:
            self._lose(None)

    def _put_on_the_way(self, piece: bytes | Signal) -> None:
        network, now = self._loop.network, self._loop.clock.now_ns
        size = len(piece) if isinstance(piece, bytes) else 0
        self._leaves_ns = max(self._leaves_ns, now) + network.sending_ns(self._way, size)
        under_way = network.under_way_ns(self._way)
        self._arrives_ns = max(self._arrives_ns, self._leaves_ns + under_way)
        self.peer._arriving.append((self._arrives_ns, piece))
        self.peer._wait_for(self._arrives_ns)

    # -- reading

    def is_reading(self) -> bool:
        return not self._reading_paused and not self._closing

    def pause_reading(self) -> None:
        self._reading_paused = True

    def resume_reading(self) -> None:
        if self._reading_paused and not self._closing:
            self._reading_paused = False
            self._loop.call_soon(self._take_arrived, context=self._loop.own_context)

    def _wait_for(self, when_ns: int) -> None:
        if self._timer is None:
            self._timer = self._loop.call_at(
                when_ns / 1e9, self._on_timer, context=self._loop.own_context
            )

    def _on_timer(self) -> None:
        self._timer = None
        self._take_arrived()

    def _take_arrived(self) -> None:
        """Hand over what has arrived by now, as far as it is wanted."""
        while self._arriving:
            when, piece = self._arriving[0]
            now = self._loop.clock.now_ns
            if when > now:
                return self._wait_for(when)
            if self.peer._way.blocked or not self._process.machine.up:
                return self._wait_for(now + _AGAIN_NS)
            if self._lost or not self._process.alive:
                # Nobody is there to take it: the kernel says so.
                self._arriving.popleft()
                if isinstance(piece, bytes) and not self.peer._lost:
                    self._put_on_the_way(Signal.RESET)
                continue
            if self._protocol is None or (self._reading_paused and piece is not Signal.RESET):
                return None
            self._arriving.popleft()
            self._take(piece)
        return None

    def _take(self, piece: bytes | Signal) -> None:
        match piece:
            case Signal.RESET:
                self._lose(ConnectionResetError(104, "Connection reset by peer"))
            case Signal.END:
                if not self._closing and not self._call(self._stream_protocol().eof_received):
                    self.close()
            case _:
                if not self._closing:
                    self._receive(piece)
                self.peer._unread_by_peer -= len(piece)
                if self.peer._process.alive:
                    self.peer._send()

    def _receive(self, data: bytes) -> None:
        protocol = self._protocol
        if isinstance(protocol, asyncio.BufferedProtocol):
            while data:
                room = self._call(protocol.get_buffer, len(data))
                taken = min(len(room), len(data))
                room[:taken] = data[:taken]
                self._call(protocol.buffer_updated, taken)
                data = data[taken:]
        else:
            self._call(self._stream_protocol().data_received, data)

    # -- ending

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            if not self._ended:
                self._unsent.append(Signal.END)
            self._send()

    def abort(self) -> None:
        if not self._lost:
            self._drop_unsent()
            self._put_on_the_way(Signal.END)
            self._lose(None)

    def die(self, *, unplugged: bool) -> None:
        """Its process is no more: nobody is called back."""
        if not self._lost:
            self._lost = self._closing = True
            self._drop_unsent()
            if not unplugged:
                self._put_on_the_way(Signal.RESET if self._arriving else Signal.END)

    def _drop_unsent(self) -> None:
        self._unsent.clear()
        self._unsent_bytes = 0

    def _lose(self, error: Exception | None) -> None:
        if not self._lost:
            self._lost = self._closing = True
            self._drop_unsent()
            self._process.transports.pop(self, None)
            if self._protocol is not None:
                self._loop.call_soon(self._protocol.connection_lost, error, context=self._context)
            self._take_arrived()

    # -- the protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        assert self._protocol is not None
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def _stream_protocol(self) -> asyncio.Protocol:
        # BufferedProtocol has the same callbacks but for how it takes data.
        return self._protocol  # type: ignore[return-value]

    def _call(self, callback: Any, *args: Any) -> Any:
        """Call the protocol back; what it raises ends the connection, as in asyncio."""
        try:
            if self._running_own_code():
                return callback(*args)
            return self._context.run(callback, *args)
        except Exception as error:  # noqa: BLE001 - told to the loop's handler, as asyncio does
            self._loop.call_exception_handler(
                {
                    "message": "protocol failed",
                    "exception": error,
                    "transport": self,
                    "protocol": self._protocol,
                }
            )
            self.abort()
            return None

    def _running_own_code(self) -> bool:
        """Whether the protocol itself asked for what calls it back: its context is entered."""
        return self._loop.running_process() is self._process
