"""One client's connection: its commands, its subscriptions, its outbox."""

from __future__ import annotations

import asyncio
import os
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from services.common.wire import encode
from services.gateway.admission.auth import Seat
from services.gateway.clients.client_subscriptions import ClientSubscriptions
from services.gateway.clients.command_queue import BAD_KEY, CommandQueue
from services.gateway.clients.dependencies import GatewayParts, limits_message
from services.gateway.fanout.live_streams import Subscriber
from services.gateway.fanout.outbox import Outbox, encoding_of
from services.gateway.protocol import (
    AUTH_REQUIRED,
    INTERNAL,
    KEY_INVALID,
    SLOW_CLOSED,
    SUBPROTOCOL,
    CommandId,
    Problem,
    echo,
)
from services.gateway.websocket.rfc6455.frames import CloseCode, text_frame
from services.gateway.websocket.transport import ClientTransport, TransportListener

log = structlog.get_logger(__name__)

# Written to the transport at once; more waits in the outbox until the transport has drained.
_WRITE_BYTES = 128 * 1024


class SessionHost(ABC):
    """Where sessions live: it owns their tasks, and knows who is there."""

    @abstractmethod
    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run it until it ends or the gateway stops; it raises nothing but cancellation."""

    @abstractmethod
    def left(self, session: Session) -> None:
        """This session is over."""


class Session(Subscriber, TransportListener):
    """Serves a link whose handshake is done, from `begin` until the link is closed.

    It has a task only while it obeys a command, and one while it catches up.
    """

    subscriptions: ClientSubscriptions

    __slots__ = (
        *("_catching", "_commands", "_home", "_left", "_link", "_opened", "_parts", "_room"),
        *("_seat", "_unread", "closing", "id", "stuck_since"),
    )

    def __init__(
        self, parts: GatewayParts, link: ClientTransport, seat: Seat, home: SessionHost
    ) -> None:
        settings = parts.settings
        encoding = encoding_of(arrays=False, deflated=link.deflated)
        super().__init__(Outbox(settings.ws_queue_bytes), encoding, link.fd)
        self.id = os.urandom(16).hex()
        self.subscriptions = ClientSubscriptions(parts, self)
        self.closing = False
        # When the transport began to wait with nothing taken from it, and how much waited then.
        self.stuck_since: float | None = None
        self._unread = 0
        self._parts = parts
        self._link = link
        self._seat = seat
        self._home = home
        self._opened = time.monotonic()
        self._left = False
        self._catching: asyncio.Task[None] | None = None
        # What most connections never need is made when it is needed: most are idle.
        self._commands: CommandQueue | None = None
        self._room: asyncio.Event | None = None
        if seat.grant is not None:
            self.subscriptions.allow(seat.grant)

    # ------------------------------------------------------------------ life

    def begin(self, *, key_refused: bool) -> None:
        """Greet. `key_refused`: it came with a key that is not known."""
        # Written at once, it goes out together with the answer to the handshake.
        self._link.write(text_frame(encode(self._welcome())))
        if key_refused:
            self.tell_problem(Problem(KEY_INVALID, BAD_KEY))

    def close(self, code: CloseCode, reason: str) -> None:
        """Write what can be written now, then close; a client that takes nothing is dropped."""
        if self.closing:
            return
        self.closing = True
        self.quick = False
        self._parts.metrics.closed.labels(reason).inc()
        while self.outbox.control:
            self._link.write(self.encoding.encode(self.outbox.drain(0)))
        self._link.close(code, reason)
        self._free_room()

    def on_closed(self) -> None:
        if not self.closing:
            self._parts.metrics.closed.labels(self._link.ended).inc()
        self.leave()

    def leave(self) -> None:
        """Give everything back; the link is closed, or will be."""
        if self._left:
            return
        self.closing = self._left = True
        self.quick = False
        # The task that is running now ends by itself.
        if self._catching is not None and self._catching is not asyncio.current_task():
            self._catching.cancel()
        if self._commands is not None:
            self._commands.cancel()
        # A task that was cancelled keeps the error, and with it what its frames held: this too.
        self._catching = self._commands = None
        self.subscriptions.close()
        self.outbox.clear()
        self._seat.release()
        self._home.left(self)
        self._free_room()

    def start_catching_up(self, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run it in a task of the connection."""
        if not self.closing:
            self._catching = self.spawn(run, "catch-up")

    def failed(self) -> None:
        try:
            self.tell_problem(Problem(INTERNAL, "the gateway failed; connect again"))
            self.close(CloseCode.INTERNAL, "internal")
        except Exception:  # not even that: nothing of it may stay
            log.exception("session_failed", session=self.id)
            self.leave()

    def spawn(self, work: Callable[[], Coroutine[Any, Any, None]], name: str) -> asyncio.Task[None]:
        """Run it in a task of the connection, which a failure of it ends."""
        return self._home.spawn(self._guarded(work), name)

    async def _guarded(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await work()
        except asyncio.CancelledError as cancelled:
            # A task group's frame and the error it raises hold each other, and all that was read
            # for this client; without this they wait for the collector.
            traceback.clear_frames(cancelled.__traceback__)
            raise
        except Exception:  # whatever it was: this client is told, and the others go on
            log.exception("session_failed", session=self.id)
            self.failed()

    # ------------------------------------------------------------------ what the client says

    def on_text(self, text: str) -> None:
        self._command(text)

    def on_binary(self, _data: bytes) -> None:
        self._command(None)

    def _command(self, text: str | None) -> None:
        if self.closing:
            return
        if self._commands is None:
            self._commands = CommandQueue(self, self._parts, self._seat)
        self._commands.add(text)

    def pause_reading(self) -> None:
        self._link.pause_reading()

    def resume_reading(self) -> None:
        self._link.resume_reading()

    # ------------------------------------------------------------------ writing

    @property
    def writable(self) -> bool:
        return not self._link.paused and not self.outbox.data

    def flush(self) -> None:
        outbox, link = self.outbox, self._link
        while outbox and not link.paused:
            if not link.write(self.encoding.encode(outbox.drain(_WRITE_BYTES))):
                # The connection is ending: nothing will be written any more.
                outbox.clear()
                self._free_room()
                return
        if outbox.size <= self._low_water:
            self._free_room()
        self.quick = link.ready and not (self.brought or self.closing or outbox)

    def send_arrays(self, arrays: bool) -> None:
        """Write several messages in a frame from now on, or one."""
        self.encoding = encoding_of(arrays=arrays, deflated=self._link.deflated)

    def unsent(self, frames: bytes, sent: int) -> None:
        self._link.write(memoryview(frames)[sent:])

    def on_pause(self) -> None:
        self.quick = False
        self.stuck_since = time.monotonic()
        self._unread = self._link.buffered

    def on_resume(self) -> None:
        self.stuck_since = None
        # At once: whatever else the transport has to write comes behind it, or with it.
        self.flush()
        # Then what conflation held back.
        self._parts.hub.touch(self)

    async def room(self) -> None:
        """Return when little waits for this client."""
        while self.outbox.size > self._low_water:
            await self.made_room()

    async def answered(self) -> None:
        """Return when there is room for another piece of an answer."""
        # Not `room`'s mark: a catch-up of the same client fills it up to that again and again.
        while self.outbox.size > max(self._low_water, self.outbox.limit // 2):
            await self.made_room()

    @property
    def _low_water(self) -> int:
        return min(64 * 1024, self._parts.settings.ws_queue_bytes // 4)

    async def made_room(self) -> None:
        """Return when something of what waits for the client was written."""
        if self._room is None:
            self._room = asyncio.Event()
        self._room.clear()
        await self._room.wait()

    def _free_room(self) -> None:
        if self._room is not None:
            self._room.set()

    @property
    def queued(self) -> int:
        """Bytes that wait for this client in this process."""
        return self.outbox.size + self.outbox.control_size + self._link.buffered

    def tell(self, message: dict[str, Any] | bytes, *, control: bool = False) -> None:
        """Put a message into the outbox, behind the data or (`control`) before it."""
        frame = text_frame(message if isinstance(message, bytes) else encode(message))
        if control:
            self.outbox.put_control(frame)
        else:
            self._parts.hub.bring(self)
            self.outbox.put(frame)
        self._parts.hub.touch(self)

    def tell_problem(
        self, problem: Problem, id: CommandId | None = None, *, control: bool = True
    ) -> None:
        """Send an `error` message, before the data or (`control` False) behind it."""
        self._parts.metrics.errors.labels(str(problem.code.code)).inc()
        id = problem.id if problem.id is not None else id
        self.tell({"type": "error", **echo(id), **problem.body()}, control=control)

    def _welcome(self) -> dict[str, Any]:
        return {
            "type": "welcome",
            "session": self.id,
            "protocol": SUBPROTOCOL,
            "server_time": time.time_ns() // 1000,
            "heartbeat_ms": self._parts.settings.ws_heartbeat_ms,
            "auth": "ok" if self._seat.grant is not None else "required",
            "limits": limits_message(self._parts.settings, self._seat.grant),
        }

    # ------------------------------------------------------------------ what the clock says

    def heartbeat(self, now_us: int) -> None:
        """Send `hb`. Heads are named only when the client was sent everything up to them."""
        self._parts.hub.deliver(self)
        heads = self.subscriptions.heads() if self.writable else {}
        self.tell({"type": "hb", "server_time": now_us, "heads": heads}, control=True)

    def overdue(self, now: float) -> tuple[Problem, str] | None:
        """Why this connection has to be closed now, and the reason's name; None: it has not."""
        settings = self._parts.settings
        if self.stuck_since is not None and (left := self._link.buffered) < self._unread:
            self.stuck_since, self._unread = now, left
        if self.stuck_since is not None and now - self.stuck_since > settings.ws_slow_close_s:
            text = f"nothing was read for {settings.ws_slow_close_s:.0f} s"
            return Problem(SLOW_CLOSED, text, resume=self.subscriptions.resume()), "slow_closed"
        if self._seat.grant is None and now - self._opened > settings.ws_auth_timeout_s:
            return Problem(AUTH_REQUIRED, "no valid key came in time"), "auth_required"
        return None
