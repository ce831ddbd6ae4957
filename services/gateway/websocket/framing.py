"""What a WebSocket reads of its transport and writes to it.

So much is read in one turn, and messages end in time. What is written goes through the transport in
order, or past it where nothing waits in it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from uvicorn.protocols.utils import is_ssl

from services.common.resilience import TokenBucket
from services.gateway.websocket.rfc6455.frames import CloseCode
from services.gateway.websocket.rfc6455.inbound import Inbound, Receiver
from services.gateway.websocket.server_context import ServerContext

# What is read of one connection in one turn of the event loop, in bytes as `Inbound` counts them:
# about a millisecond's work, whatever the frames are.
_TURN_COST = 64 * 1024
# Control frames that may come at once, in seconds of the rate that is allowed.
_CONTROL_BURST_S = 10


class FrameReader:
    """Feeds a connection's bytes to `Inbound`, which tells its messages to the receiver.

    Backpressure is TCP's: while something is left for a later turn, or nobody wants to be told
    more, the transport is not read from.
    """

    __slots__ = (
        *("_context", "_control", "_inbound", "_paused"),
        *("_receiver", "_timed", "_timer", "_transport"),
    )

    def __init__(
        self,
        context: ServerContext,
        transport: asyncio.Transport,
        receiver: Receiver,
        *,
        deflate: bool = False,
    ) -> None:
        limits = context.reading
        self._context = context
        self._transport = transport
        # None after the end: it holds this object too, and only the collector would free both.
        self._receiver: Receiver | None = receiver
        self._inbound = Inbound(
            limits.max_bytes, deflate=deflate, max_fragments=limits.max_fragments
        )
        # Whether the transport's reading is paused; `Inbound.stopped` is whether the receiver wants
        # to be told nothing for now.
        self._paused = False
        # Made by the first control frame that is not an answer: most clients send none.
        self._control: TokenBucket | None = None
        # Runs while a message is incomplete.
        self._timed = True
        self._timer: asyncio.TimerHandle | None = None

    def feed(self, data: bytes) -> None:
        """Read what came in, as far as one turn's bound allows; the rest follows by itself."""
        if (receiver := self._receiver) is not None:
            self._after_reading(self._inbound.feed(data, receiver, _TURN_COST))

    def _next_turn(self) -> None:
        if (receiver := self._receiver) is not None and not self._inbound.stopped:
            self._after_reading(self._inbound.go_on(receiver, _TURN_COST))

    def _after_reading(self, done: bool) -> None:
        self._time_message()
        if done:
            if not self._inbound.stopped:
                self.resume_transport()
        else:
            self.pause_transport()
            if not self._inbound.stopped:
                self._context.loop.call_soon(self._next_turn)

    def end(self) -> None:
        """Tell the receiver nothing any more, also not of what came in already."""
        self._receiver = None
        self._inbound.end()

    # ------------------------------------------------------------------ backpressure

    def pause(self) -> None:
        """Tell the receiver nothing for now."""
        if not self._inbound.stopped:
            self._inbound.stopped = True
            self.pause_transport()

    def resume(self) -> None:
        """Tell the receiver more, beginning with what came in meanwhile."""
        if self._inbound.stopped and not self._transport.is_closing():
            self._inbound.stopped = False
            if self._inbound.incomplete:
                # Perhaps only half a frame; reading on finds out.
                self._context.loop.call_soon(self._next_turn)
            else:
                self.resume_transport()

    def pause_transport(self) -> None:
        if not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def resume_transport(self) -> None:
        if self._paused and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()

    # ------------------------------------------------------------------ limits over time

    def allows_control_frame(self) -> bool:
        """Count a control frame that was not asked for; False: it is one too many."""
        now, rate = self._context.loop.time(), self._context.reading.control_per_s
        if self._control is None:
            self._control = TokenBucket(rate, max(1.0, _CONTROL_BURST_S * rate), now)
        return self._control.acquire(now) == 0

    def stop_timing(self) -> None:
        """Messages may take as long as they do: the connection is closing."""
        self._timed = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _time_message(self) -> None:
        if self._timed and self._timer is None and self._inbound.incomplete:
            self._timer = self._context.loop.call_later(
                self._context.reading.message_s, self._message_overdue, self._inbound.messages
            )

    def _message_overdue(self, before: int) -> None:
        """`before` messages were whole when the timer began."""
        self._timer = None
        if not self._timed or not self._inbound.incomplete or self._receiver is None:
            return
        inbound = self._inbound
        if inbound.messages == before and not inbound.stopped and not self._paused:
            self._receiver.on_violation(CloseCode.POLICY, "a message that did not end in time")
        else:
            # Another message by now; or it is not the client's fault, who is not read from.
            self._time_message()


@dataclass(slots=True, eq=False)
class FrameWriter:
    """Writes whole frames, behind an answer to the handshake or a pong that still waits."""

    _transport: asyncio.Transport
    # Whether the transport still holds something, so that no more should be written.
    paused: bool = False
    answer: bytes = b""  # to the handshake; written before, and with, whatever is written next
    pong: bytes = b""  # the same; the newest one only

    @property
    def clear(self) -> bool:
        """Whether nothing waits: the socket may be written to past the transport."""
        return not (self.paused or self.answer or self.pong or self._transport.is_closing())

    @property
    def fd(self) -> int:
        """The socket's descriptor; negative where it cannot be written to."""
        sock = self._transport.get_extra_info("socket")
        if sock is None or is_ssl(self._transport):
            return -1
        # A transport closes its descriptor after `connection_lost` only.
        return int(sock.fileno())

    @property
    def buffered(self) -> int:
        return self._transport.get_write_buffer_size()

    def write(self, data: bytes | memoryview = b"") -> None:
        """Write what waits, and `data` behind it."""
        if self.answer:
            data, self.answer = self.answer + bytes(data), b""
        if self.pong:
            # Whole frames follow: nobody writes past this transport while a pong waits (`clear`).
            data, self.pong = self.pong + bytes(data), b""
        self._transport.write(data)
