"""One client's connection: its commands, its subscriptions, its outbox."""

from __future__ import annotations

import asyncio
import os
import time
import traceback
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from services.common.wire import encode
from services.gateway.admission.addresses import Guessing
from services.gateway.admission.auth import Grant, Seat
from services.gateway.clients.client_subscriptions import ClientSubscriptions
from services.gateway.clients.dependencies import GatewayParts
from services.gateway.fanout.encoding import encoding_of
from services.gateway.fanout.outbox import Outbox
from services.gateway.fanout.subscription import Subscription
from services.gateway.history.catch_up import CatchUp, CatchUpPort
from services.gateway.protocol import (
    AUTH_REQUIRED,
    COMMANDS,
    CONNECTION_QUOTA,
    INTERNAL,
    KEY_INVALID,
    KEYLESS,
    MAX_MESSAGE_BYTES,
    SLOW_CLOSED,
    SUBPROTOCOL,
    SUBSCRIPTION_LIMIT,
    TOO_LARGE,
    Auth,
    Command,
    CommandId,
    Ping,
    Problem,
    Resync,
    Subscribe,
    Unsubscribe,
    check_size,
    echo,
    id_in,
    id_of,
    parse_command,
    parse_json,
    streams_named,
)
from services.gateway.ratelimit import TokenBucket
from services.gateway.websocket.frames import text_frame
from services.gateway.websocket.transport import ClientTransport, TransportListener

log = structlog.get_logger(__name__)

# Written to the transport at once; more waits in the outbox until the transport has drained.
_WRITE_BYTES = 128 * 1024
# A client that sends commands and reads no answers is not read from above this.
_CONTROL_BYTES = 64 * 1024
# Commands that wait while one is obeyed; a client that sends more is not read from meanwhile.
_WAITING = 16
# Abuse is counted in strikes: a refused frame is one, a command beyond the rate a fraction of it.
_STRIKES = 20.0
_STRIKES_PER_S = 1.0
_RATE_STRIKE = 0.02
# What a command costs of its sender's rate beside the one that each costs: for each stream that it
# names, and for so many bytes that have to be read.
_STREAM_COMMANDS = 0.2
_COMMAND_BYTES = 4096
# A command may always name so many streams, if only to be told stream by stream that there is no
# room for them.
_STREAMS_ALWAYS = 256
_BAD_KEY = "this API key is not known"
_OTHER_KEY = "this connection has another API key; connect again to change it"


class SessionHost(ABC):
    """Where sessions live: it owns their tasks, and knows who is there."""

    @abstractmethod
    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run it until it ends or the gateway stops; it raises nothing but cancellation."""

    @abstractmethod
    def left(self, session: Session) -> None:
        """This session is over."""


class Session(CatchUpPort, TransportListener):
    """Serves a link whose handshake is done, from `begin` until the link is closed.

    It has a task only while it obeys a command, and one while it catches up.
    """

    __slots__ = (
        "_bucket",
        "_catching",
        "_commands",
        "_home",
        "_left",
        "_link",
        "_opened",
        "_parts",
        "_room",
        "_seat",
        "_strikes",
        "_unread",
        "_working",
        "closing",
        "id",
        "stuck_since",
        "subscriptions",
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
        self._working: asyncio.Task[None] | None = None
        self._commands: deque[str | None] | None = None
        self._room: asyncio.Event | None = None
        self._bucket: TokenBucket | None = None
        self._strikes: TokenBucket | None = None
        self._apply_grant()

    # ------------------------------------------------------------------ life

    def begin(self, *, key_refused: bool) -> None:
        """Greet. `key_refused`: it came with a key that is not known."""
        # Written at once, it goes out together with the answer to the handshake.
        self._link.write(text_frame(encode(self._welcome())))
        if key_refused:
            self.tell_problem(Problem(KEY_INVALID, _BAD_KEY))

    def close(self, code: int, reason: str) -> None:
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
        for task in (self._catching, self._working):
            # The task that is running now ends by itself.
            if task is not None and task is not asyncio.current_task():
                task.cancel()
        # A task that was cancelled keeps the error, and with it what its frames held: this too.
        self._catching = self._working = None
        self.subscriptions.close()
        self.outbox.clear()
        self._seat.leave()
        self._home.left(self)
        self._free_room()

    def start_catching_up(self, work: CatchUp) -> None:
        if not self.closing:
            self._catching = self._home.spawn(self._guarded(work.run), "catch-up")

    def failed(self) -> None:
        try:
            self.tell_problem(Problem(INTERNAL, "the gateway failed; connect again"))
            self.close(1011, "internal")
        except Exception:  # not even that: nothing of it may stay
            log.exception("session_failed", session=self.id)
            self.leave()

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
        self._on_command(text)

    def on_binary(self, _data: bytes) -> None:
        self._on_command(None)

    def _on_command(self, text: str | None) -> None:
        if self.closing:
            return
        if self._commands is None:
            self._commands = deque()
        self._commands.append(text)
        if len(self._commands) > _WAITING:
            self._link.pause_reading()
        if self._working is None:
            self._working = self._home.spawn(self._guarded(self._work), "commands")

    async def _work(self) -> None:
        """Obey what came, one after the other."""
        try:
            while self._commands and not self.closing:
                text = self._commands.popleft()
                if text is not None:
                    await self._on_text(text)
                else:
                    self.tell_problem(Problem(TOO_LARGE, "binary frames are not taken"))
                    self._strike(1.0)
                while self.outbox.control_size > _CONTROL_BYTES and not self.closing:
                    # It talks and does not listen: answers wait for it, and so do its commands.
                    self._link.pause_reading()
                    await self._made_room()
                if self._commands:
                    # Many that wait are obeyed in a turn each: others have theirs between.
                    await asyncio.sleep(0)
        finally:
            self._working = self._commands = None
        if not self.closing:
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
        self._parts.hub.drained(self)

    async def room(self) -> None:
        while self.outbox.size > self._low_water:
            await self._made_room()

    async def answered(self) -> None:
        # Not `room`'s mark: a catch-up of the same client fills it up to that again and again.
        while self.outbox.size > max(self._low_water, self.outbox.limit // 2):
            await self._made_room()

    @property
    def _low_water(self) -> int:
        return min(64 * 1024, self._parts.settings.ws_queue_bytes // 4)

    async def _made_room(self) -> None:
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
            "limits": self._limits(),
        }

    def _limits(self) -> dict[str, float]:
        settings = self._parts.settings
        return {
            "max_message_bytes": MAX_MESSAGE_BYTES,
            "max_subscriptions": self.subscriptions.limit,
            "commands_per_second": self._commands_per_s,
            "command_burst": settings.ws_burst,
            "queue_bytes": settings.ws_queue_bytes,
            "backfill_minutes": settings.backfill_max_minutes,
            "product_messages_per_second": settings.product_max_msgs_per_sec,
        }

    @property
    def _commands_per_s(self) -> float:
        most = self._parts.settings.ws_max_msgs_per_sec
        grant = self._seat.grant
        return most if grant is None or grant.commands is None else min(most, grant.commands)

    def _apply_grant(self) -> None:
        grant = self._seat.grant
        if grant is None:
            return
        self.subscriptions.allow(grant)
        self._bucket = None

    def _commands_bucket(self, now: float) -> TokenBucket:
        if self._bucket is None:
            rate, burst = self._commands_per_s, float(self._parts.settings.ws_burst)
            grant = self._seat.grant
            if grant is not None and grant.commands is not None:
                burst = max(1.0, min(burst, 4 * rate))
            self._bucket = TokenBucket(rate, burst, now)
        return self._bucket

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

    # ------------------------------------------------------------------ what the hub says

    def fell_behind(self, subscription: Subscription, records: int) -> None:
        self.subscriptions.fell_behind(subscription, records)

    def rebased(self, subscription: Subscription) -> None:
        self.subscriptions.rebased(subscription)

    def over_quota(self, subscription: Subscription) -> None:
        self.subscriptions.over_quota(subscription)

    def within_quota(self, subscription: Subscription) -> None:
        self.subscriptions.within_quota(subscription)

    def refuse(self, problem: Problem, subscription: Subscription) -> None:
        self.subscriptions.refuse(problem, subscription)

    # ------------------------------------------------------------------ commands

    async def _on_text(self, text: str) -> None:
        id: CommandId | None = None
        try:
            check_size(text)
            # Whatever it is, reading it costs: it is paid for before.
            now = time.monotonic()
            bucket = self._commands_bucket(now)
            if (wait := bucket.acquire(now)) > 0:
                self._limit(id_in(text), wait)
                return
            bucket.charge(now, len(text) // _COMMAND_BYTES)
            value = parse_json(text)
            id = id_of(value)
            if self._seat.grant is None and value.get("type") in COMMANDS.keys() - KEYLESS:
                raise Problem(AUTH_REQUIRED, "send `auth` with a valid key first")
            streams = streams_named(value)
            bucket.charge(now, (streams - 1) * _STREAM_COMMANDS)
            if streams > max(self.subscriptions.limit, _STREAMS_ALWAYS):
                message = f"{streams} streams in one command; a connection may have"
                raise Problem(SUBSCRIPTION_LIMIT, f"{message} {self.subscriptions.limit}")
            await self._obey(parse_command(value), id)
        except Problem as problem:
            self.tell_problem(problem, id)
            if problem.code is TOO_LARGE:
                self._strike(1.0)

    def _limit(self, id: CommandId | None, wait: float) -> None:
        self._parts.metrics.rate_limited.labels("commands").inc()
        retry = int(wait * 1000) + 1
        self.tell(
            {"type": "rate_limit", **echo(id), "scope": "commands", "retry_after_ms": retry},
            control=True,
        )
        self._strike(_RATE_STRIKE)

    def _strike(self, weight: float) -> None:
        now = time.monotonic()
        if self._strikes is None:
            self._strikes = TokenBucket(_STRIKES_PER_S, _STRIKES, now)
        if self._strikes.acquire(now, weight) > 0:
            self.close(1008, "abuse")

    async def _obey(self, command: Command, id: CommandId | None) -> None:
        if isinstance(command, Ping):
            pong: dict[str, Any] = {"type": "pong", **echo(id), "ts": command.ts}
            self.tell({**pong, "server_time": time.time_ns() // 1000}, control=True)
        elif isinstance(command, Auth):
            self._authorize(command.api_key, id)
        elif isinstance(command, Subscribe):
            if command.batch is not None:
                self.encoding = encoding_of(arrays=command.batch, deflated=self._link.deflated)
            await self.subscriptions.subscribe(command, id)
        elif isinstance(command, Unsubscribe):
            await self.subscriptions.unsubscribe(command, id)
        elif isinstance(command, Resync):
            await self.subscriptions.resync(command, id)

    def _authorize(self, key: str, id: CommandId | None) -> None:
        try:
            grant = self._parts.grant_of(key, self._seat.address)
        except Guessing as guessing:
            self._parts.metrics.rate_limited.labels("keys").inc()
            wait_ms = int(guessing.wait_s * 1000) + 1
            limit = {"type": "rate_limit", **echo(id), "scope": "connection"}
            self.tell({**limit, "retry_after_ms": wait_ms}, control=True)
            self._strike(1.0)
            return
        if grant is None:
            self.tell_problem(Problem(KEY_INVALID, _BAD_KEY), id)
            self._strike(1.0)
            return
        if self._seat.grant is None:
            if not self._seat.take(grant):
                raise connections_taken(grant)
            self._apply_grant()
        elif self._seat.grant != grant:
            # What was subscribed under one key must not go on under another.
            self.tell_problem(Problem(KEY_INVALID, _OTHER_KEY), id)
            self._strike(1.0)
            return
        self.tell({"type": "auth", **echo(id), "ok": True, "limits": self._limits()}, control=True)


def connections_taken(grant: Grant) -> Problem:
    """What is said when a key has no connection left."""
    message = f"{grant.connections} connections of this key are open, it may have no more"
    return Problem(CONNECTION_QUOTA, message, retry_after_ms=1000)
