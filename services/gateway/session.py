"""One client's connection: its commands, its subscriptions, its outbox."""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import Any

import structlog
from starlette.websockets import WebSocket

from services.common.wire import encode
from services.gateway.audience import Subscription
from services.gateway.auth import EVERYONE, Grant, Seat
from services.gateway.catchup import CatchingUp, CatchUp
from services.gateway.core import Core
from services.gateway.forms import form_of
from services.gateway.frames import text_frame
from services.gateway.interests import Interests
from services.gateway.metrics import METRICS
from services.gateway.outbox import Outbox
from services.gateway.protocol import (
    AUTH_REQUIRED,
    CONNECTION_QUOTA,
    KEY_INVALID,
    MAX_MESSAGE_BYTES,
    SLOW_CLOSED,
    SUBPROTOCOL,
    TOO_LARGE,
    Auth,
    Command,
    CommandId,
    Ping,
    Problem,
    Resync,
    Subscribe,
    Unsubscribe,
    echo,
    id_of,
    parse_command,
    parse_json,
)
from services.gateway.ratelimit import TokenBucket
from services.gateway.wsproto import Link

log = structlog.get_logger(__name__)

# Written to the transport at once; more waits in the outbox until the transport has drained.
_WRITE_BYTES = 128 * 1024
# A client that sends commands and reads no answers is not read from above this.
_CONTROL_BYTES = 64 * 1024
_READY_S = 5.0
# Abuse is counted in strikes: a refused frame is one, a command beyond the rate a fraction of it.
_STRIKES = 20.0
_STRIKES_PER_S = 1.0
_RATE_STRIKE = 0.02
_BAD_KEY = "this API key is not known"
_OTHER_KEY = "this connection has another API key; connect again to change it"


class Session(CatchingUp):
    """Made when a socket was accepted; `run` serves it until it ends."""

    def __init__(self, core: Core, websocket: WebSocket, link: Link, seat: Seat) -> None:
        settings = core.settings
        self.id = uuid.uuid4().hex
        form = form_of(arrays=False, deflated=link.deflated)
        super().__init__(Outbox(settings.ws_queue_bytes), form, link.fd)
        self.interests = Interests(core, self, self._spawn_catch_up)
        self.closing = False
        # When the transport began to wait with nothing taken from it, and how much waited then.
        self.stuck_since: float | None = None
        self._unread = 0
        self._core = core
        self._websocket = websocket
        self._link = link
        self._seat = seat
        self._opened = time.monotonic()
        self._catching: asyncio.Task[None] | None = None
        self._group: asyncio.TaskGroup | None = None
        self._room = asyncio.Event()
        self._bucket = TokenBucket(settings.ws_max_msgs_per_sec, settings.ws_burst, self._opened)
        self._strikes = TokenBucket(_STRIKES_PER_S, _STRIKES, self._opened)
        self._low_water = min(64 * 1024, settings.ws_queue_bytes // 4)
        link.listen(self._on_pause, self._on_resume)
        self._apply_grant()

    # ------------------------------------------------------------------ life

    async def run(self, *, key_refused: bool) -> None:
        """Greet, then obey commands until the client leaves or is closed.

        `key_refused`: it came with a key that is not known.
        """
        self._tell_welcome()
        if key_refused:
            self.tell_problem(Problem(KEY_INVALID, _BAD_KEY))
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                try:
                    await self._receive()
                finally:
                    self.closing = True
                    if self._catching is not None:
                        self._catching.cancel()
        finally:
            self.interests.close()

    def _spawn_catch_up(self, catch_up: CatchUp) -> None:
        if self._group is not None and not self.closing:
            self._catching = self._group.create_task(catch_up.run(), name="catch-up")

    async def _receive(self) -> None:
        while True:
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                if not self.closing:
                    METRICS.closed.labels("client").inc()
                return
            text = message.get("text")
            if text is None:
                self.tell_problem(Problem(TOO_LARGE, "binary frames are not taken"))
                await self._strike(1.0)
            else:
                await self._on_text(text)
            if self.closing:
                continue
            while self.outbox.control_size > _CONTROL_BYTES and not self.closing:
                # It talks and does not listen: answers wait for it, and so do its commands.
                self._room.clear()
                await self._room.wait()

    async def close(self, code: int, reason: str) -> None:
        """Write what can be written now, then close; a client that takes nothing is dropped."""
        if self.closing:
            return
        self.closing = True
        self.quick = False
        METRICS.closed.labels(reason).inc()
        while self.outbox.control:
            self._link.write(self.form.encode(self.outbox.pieces(0)))
        try:
            async with asyncio.timeout(1.0):
                await self._websocket.close(code, reason)
        except (TimeoutError, RuntimeError, OSError):
            # RuntimeError: the application's side already saw the end of this connection.
            self._link.abort()
        self._room.set()

    # ------------------------------------------------------------------ writing

    @property
    def writable(self) -> bool:
        return not self._link.paused and not self.outbox.data

    def flush(self) -> None:
        outbox, link = self.outbox, self._link
        while outbox and not link.paused:
            if not self._link.write(self.form.encode(outbox.pieces(_WRITE_BYTES))):
                # The connection is ending: nothing will be written any more.
                outbox.clear()
                self._room.set()
                return
        if outbox.size <= self._low_water:
            self._room.set()
        self.quick = link.ready and not (self.brought or self.closing or outbox)

    def unsent(self, frames: bytes, sent: int) -> None:
        self._link.write(memoryview(frames)[sent:])

    def _on_pause(self) -> None:
        self.quick = False
        self.stuck_since = time.monotonic()
        self._unread = self._link.buffered

    def _on_resume(self) -> None:
        self.stuck_since = None
        self._core.hub.drained(self)

    async def room(self) -> None:
        while self.outbox.size > self._low_water:
            self._room.clear()
            await self._room.wait()

    @property
    def queued(self) -> int:
        """Bytes that wait for this client in this process."""
        return self.outbox.size + self.outbox.control_size + self._link.buffered

    def tell(self, message: dict[str, Any] | bytes, *, control: bool = False) -> None:
        frame = text_frame(message if isinstance(message, bytes) else encode(message))
        if control:
            self.outbox.put_control(frame)
        else:
            self._core.hub.bring(self)
            self.outbox.put(frame)
        self._core.hub.touch(self)

    def tell_problem(
        self, problem: Problem, id: CommandId | None = None, *, control: bool = True
    ) -> None:
        """Send an `error` message, before the data or (`control` False) behind it."""
        METRICS.errors.labels(str(problem.code.code)).inc()
        id = problem.id if problem.id is not None else id
        self.tell({"type": "error", **echo(id), **problem.body()}, control=control)

    def _tell_welcome(self) -> None:
        settings = self._core.settings
        self.tell(
            {
                "type": "welcome",
                "session": self.id,
                "protocol": SUBPROTOCOL,
                "server_time": time.time_ns() // 1000,
                "heartbeat_ms": settings.ws_heartbeat_ms,
                "auth": "ok" if self._seat.grant is not None else "required",
                "limits": self._limits(),
            },
            control=True,
        )

    def _limits(self) -> dict[str, float]:
        settings = self._core.settings
        return {
            "max_message_bytes": MAX_MESSAGE_BYTES,
            "max_subscriptions": self.interests.limit,
            "commands_per_second": self._commands_per_s,
            "command_burst": settings.ws_burst,
            "queue_bytes": settings.ws_queue_bytes,
            "backfill_minutes": settings.backfill_max_minutes,
            "product_messages_per_second": settings.product_max_msgs_per_sec,
        }

    @property
    def _commands_per_s(self) -> float:
        most = self._core.settings.ws_max_msgs_per_sec
        grant = self._seat.grant
        return most if grant is None or grant.commands is None else min(most, grant.commands)

    def _apply_grant(self) -> None:
        grant = self._seat.grant
        if grant is None:
            return
        self.interests.allow(grant)
        if grant.commands is not None:
            rate = self._commands_per_s
            burst = max(1.0, min(self._core.settings.ws_burst, 4 * rate))
            self._bucket = TokenBucket(rate, burst, time.monotonic())

    # ------------------------------------------------------------------ what the clock says

    def heartbeat(self, now_us: int) -> None:
        """Send `hb`. Heads are named only when the client was sent everything up to them."""
        self._core.hub.deliver(self)
        heads = self.interests.heads() if self.writable else {}
        self.tell({"type": "hb", "server_time": now_us, "heads": heads}, control=True)

    def overdue(self, now: float) -> tuple[Problem, str] | None:
        """Why this connection has to be closed now, and the reason's name; None: it has not."""
        settings = self._core.settings
        if self.stuck_since is not None and (left := self._link.buffered) < self._unread:
            self.stuck_since, self._unread = now, left
        if self.stuck_since is not None and now - self.stuck_since > settings.ws_slow_close_s:
            text = f"nothing was read for {settings.ws_slow_close_s:.0f} s"
            return Problem(SLOW_CLOSED, text, resume=self.interests.resume()), "slow_closed"
        if self._seat.grant is None and now - self._opened > settings.ws_auth_timeout_s:
            return Problem(AUTH_REQUIRED, "no valid key came in time"), "auth_required"
        return None

    # ------------------------------------------------------------------ what the hub says

    def fell_behind(self, subscription: Subscription, records: int) -> None:
        self.interests.fell_behind(subscription, records)

    def rebased(self, subscription: Subscription) -> None:
        self.interests.rebased(subscription)

    def over_quota(self, subscription: Subscription) -> None:
        self.interests.over_quota(subscription)

    def within_quota(self, subscription: Subscription) -> None:
        self.interests.within_quota(subscription)

    def refuse(self, problem: Problem, subscription: Subscription) -> None:
        self.interests.refuse(problem, subscription)

    # ------------------------------------------------------------------ commands

    async def _on_text(self, text: str) -> None:
        id: CommandId | None = None
        try:
            value = parse_json(text)
            id = id_of(value)
            wait = self._bucket.take(time.monotonic())
            if wait > 0:
                await self._limit(id, wait)
                return
            await self._obey(parse_command(value), id)
        except Problem as problem:
            self.tell_problem(problem, id)
            if problem.code is TOO_LARGE:
                await self._strike(1.0)

    async def _limit(self, id: CommandId | None, wait: float) -> None:
        METRICS.rate_limited.labels("commands").inc()
        retry = int(wait * 1000) + 1
        self.tell(
            {"type": "rate_limit", **echo(id), "scope": "commands", "retry_after_ms": retry},
            control=True,
        )
        await self._strike(_RATE_STRIKE)

    async def _strike(self, weight: float) -> None:
        if self._strikes.take(time.monotonic(), weight) > 0:
            await self.close(1008, "abuse")

    async def _obey(self, command: Command, id: CommandId | None) -> None:
        if isinstance(command, Ping):
            pong: dict[str, Any] = {"type": "pong", **echo(id), "ts": command.ts}
            self.tell({**pong, "server_time": time.time_ns() // 1000}, control=True)
        elif isinstance(command, Auth):
            await self._authorize(command.api_key, id)
        elif self._seat.grant is None:
            raise Problem(AUTH_REQUIRED, "send `auth` with a valid key first")
        elif isinstance(command, Subscribe):
            if command.batch is not None:
                self.form = form_of(arrays=command.batch, deflated=self._link.deflated)
            await self.interests.subscribe(command, id)
        elif isinstance(command, Unsubscribe):
            self.interests.unsubscribe(command, id)
        elif isinstance(command, Resync):
            await self.interests.resync(command, id)

    async def _authorize(self, key: str, id: CommandId | None) -> None:
        keys = self._core.keys
        grant = EVERYONE if keys.open else keys.grant(key)
        if grant is None:
            self.tell_problem(Problem(KEY_INVALID, _BAD_KEY), id)
            await self._strike(1.0)
            return
        if self._seat.grant is None:
            if not self._seat.take(grant):
                raise connections_taken(grant)
            self._apply_grant()
        elif self._seat.grant != grant:
            # What was subscribed under one key must not go on under another.
            self.tell_problem(Problem(KEY_INVALID, _OTHER_KEY), id)
            await self._strike(1.0)
            return
        self.tell({"type": "auth", **echo(id), "ok": True, "limits": self._limits()}, control=True)


def connections_taken(grant: Grant) -> Problem:
    """What is said when a key has no connection left."""
    message = f"{grant.connections} connections of this key are open, it may have no more"
    return Problem(CONNECTION_QUOTA, message, retry_after_ms=1000)
