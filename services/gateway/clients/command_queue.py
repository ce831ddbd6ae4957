"""A client's commands: obeyed one after the other, at a rate, and only so many wait."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from services.gateway.admission.addresses import Guessing
from services.gateway.admission.auth import Seat
from services.gateway.clients.dependencies import (
    GatewayParts,
    command_rate,
    connections_taken,
    limits_message,
)
from services.gateway.protocol import (
    AUTH_REQUIRED,
    COMMANDS,
    KEY_INVALID,
    KEYLESS,
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
from services.gateway.ratelimit import (
    OVER_THE_RATE,
    REFUSED_FRAME,
    CommandRate,
    Strikes,
    retry_after_ms,
)
from services.gateway.websocket.rfc6455.frames import CloseCode

if TYPE_CHECKING:
    from services.gateway.clients.session import Session

# A client that sends commands and reads no answers is not read from above this.
_CONTROL_BYTES = 64 * 1024
# Commands that wait while one is obeyed; a client that sends more is not read from meanwhile.
_WAITING = 16
# A command may always name so many streams, if only to be told stream by stream that there is no
# room for them.
_STREAMS_ALWAYS = 256
_OTHER_KEY = "this connection has another API key; connect again to change it"
BAD_KEY = "this API key is not known"


@dataclass(slots=True, eq=False)
class CommandQueue:
    """See the module's docstring.

    It has a task only while there is something to obey.
    """

    _client: Session
    _parts: GatewayParts
    _seat: Seat
    _working: asyncio.Task[None] | None = None
    _waiting: deque[str | None] | None = None
    _rate: CommandRate | None = None
    _strikes: Strikes | None = None

    def add(self, text: str | None) -> None:
        """Obey this when all before it is obeyed; None: what came was no text."""
        if self._waiting is None:
            self._waiting = deque()
        self._waiting.append(text)
        if len(self._waiting) > _WAITING:
            self._client.pause_reading()
        if self._working is None:
            self._working = self._client.spawn(self._work, "commands")

    def cancel(self) -> None:
        """Obey nothing more."""
        # The task that is running now ends by itself.
        if self._working is not None and self._working is not asyncio.current_task():
            self._working.cancel()
        # A task that was cancelled keeps the error, and with it what its frames held: this too.
        self._working = None

    async def _work(self) -> None:
        """Obey what came, one after the other."""
        try:
            while self._waiting and not self._client.closing:
                text = self._waiting.popleft()
                if text is not None:
                    await self._on_text(text)
                else:
                    self._client.tell_problem(Problem(TOO_LARGE, "binary frames are not taken"))
                    self._strike(REFUSED_FRAME)
                while (
                    self._client.outbox.control_size > _CONTROL_BYTES and not self._client.closing
                ):
                    # It talks and does not listen: answers wait for it, and so do its commands.
                    self._client.pause_reading()
                    await self._client.made_room()
                if self._waiting:
                    # Many that wait are obeyed in a turn each: others have theirs between.
                    await asyncio.sleep(0)
        finally:
            self._working = self._waiting = None
        if not self._client.closing:
            self._client.resume_reading()

    # ------------------------------------------------------------------ one command

    async def _on_text(self, text: str) -> None:
        id: CommandId | None = None
        try:
            check_size(text)
            # Whatever it is, reading it costs: it is paid for before.
            now = time.monotonic()
            if self._rate is None:
                self._rate = command_rate(self._parts.settings, self._seat.grant, now)
            rate = self._rate
            if (wait := rate.acquire(now)) > 0:
                self._limit(id_in(text), wait)
                return
            rate.charge_reading(now, text)
            value = parse_json(text)
            id = id_of(value)
            if self._seat.grant is None and value.get("type") in COMMANDS.keys() - KEYLESS:
                raise Problem(AUTH_REQUIRED, "send `auth` with a valid key first")
            streams = streams_named(value)
            rate.charge_streams(now, streams)
            if streams > max(self._client.subscriptions.limit, _STREAMS_ALWAYS):
                message = f"{streams} streams in one command; a connection may have"
                raise Problem(SUBSCRIPTION_LIMIT, f"{message} {self._client.subscriptions.limit}")
            await self._obey(parse_command(value), id)
        except Problem as problem:
            self._client.tell_problem(problem, id)
            if problem.code is TOO_LARGE:
                self._strike(REFUSED_FRAME)

    def _limit(self, id: CommandId | None, wait: float) -> None:
        self._parts.metrics.rate_limited.labels("commands").inc()
        retry = retry_after_ms(wait)
        self._client.tell(
            {"type": "rate_limit", **echo(id), "scope": "commands", "retry_after_ms": retry},
            control=True,
        )
        self._strike(OVER_THE_RATE)

    def _strike(self, weight: float) -> None:
        now = time.monotonic()
        if self._strikes is None:
            self._strikes = Strikes(now)
        if self._strikes.too_many(now, weight):
            self._client.close(CloseCode.POLICY, "abuse")

    async def _obey(self, command: Command, id: CommandId | None) -> None:
        if isinstance(command, Ping):
            pong: dict[str, Any] = {"type": "pong", **echo(id), "ts": command.ts}
            self._client.tell({**pong, "server_time": time.time_ns() // 1000}, control=True)
        elif isinstance(command, Auth):
            self._authorize(command.api_key, id)
        elif isinstance(command, Subscribe):
            if command.batch is not None:
                self._client.send_arrays(command.batch)
            await self._client.subscriptions.subscribe(command, id)
        elif isinstance(command, Unsubscribe):
            await self._client.subscriptions.unsubscribe(command, id)
        elif isinstance(command, Resync):
            await self._client.subscriptions.resync(command, id)

    def _authorize(self, key: str, id: CommandId | None) -> None:
        try:
            grant = self._parts.grant_of(key, self._seat.address)
        except Guessing as guessing:
            self._parts.metrics.rate_limited.labels("keys").inc()
            wait_ms = retry_after_ms(guessing.wait_s)
            limit = {"type": "rate_limit", **echo(id), "scope": "connection"}
            self._client.tell({**limit, "retry_after_ms": wait_ms}, control=True)
            self._strike(REFUSED_FRAME)
            return
        if grant is None:
            self._client.tell_problem(Problem(KEY_INVALID, BAD_KEY), id)
            self._strike(REFUSED_FRAME)
            return
        if self._seat.grant is None:
            if not self._seat.acquire(grant):
                raise connections_taken(grant)
            self._client.subscriptions.allow(grant)
            self._rate = None
        elif self._seat.grant != grant:
            # What was subscribed under one key must not go on under another.
            self._client.tell_problem(Problem(KEY_INVALID, _OTHER_KEY), id)
            self._strike(REFUSED_FRAME)
            return
        self._client.tell(
            {
                "type": "auth",
                **echo(id),
                "ok": True,
                "limits": limits_message(self._parts.settings, self._seat.grant),
            },
            control=True,
        )
