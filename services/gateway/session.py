"""One client's connection: its commands, its subscriptions, its outbox."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog
from starlette.websockets import WebSocket

from services.common.errors import BrokerUnavailable, InvalidSubject
from services.common.subjects import CHANNELS, StreamKey, check_token
from services.common.wire import encode
from services.gateway.backfill import Start
from services.gateway.catchup import NO_STATE, CatchingUp, CatchUp
from services.gateway.core import Core
from services.gateway.frames import payloads_of, text_frame
from services.gateway.hub import BEGINNING, Mode, Subscription
from services.gateway.metrics import METRICS
from services.gateway.outbox import Outbox
from services.gateway.protocol import (
    AUTH_REQUIRED,
    BROKER_UNAVAILABLE,
    KEY_INVALID,
    MAX_MESSAGE_BYTES,
    NOT_SUBSCRIBED,
    SLOW_CLOSED,
    SUBPROTOCOL,
    SUBSCRIPTION_LIMIT,
    TOO_LARGE,
    UNKNOWN_CHANNEL,
    UNKNOWN_PRODUCT,
    Auth,
    Command,
    CommandId,
    Ping,
    Problem,
    Resync,
    Subscribe,
    Unsubscribe,
    id_of,
    make_cursor,
    parse_command,
    parse_json,
)
from services.gateway.ratelimit import TokenBucket
from services.gateway.records import SnapshotReason, stream_fields
from services.gateway.tail import Feed
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


@dataclass
class _Plan:
    """What a `subscribe` will do with one stream, or why it will not."""

    key: StreamKey
    feed: Feed | None = None
    subscription: Subscription | None = None
    start: Start | None = None
    kind: str = "snapshot"
    reason: SnapshotReason = "subscribe"
    # The stream is followed already and only the way of sending changes.
    change: bool = False
    problem: Problem | None = None
    more: dict[str, Any] = field(default_factory=dict)


class Session(CatchingUp):
    """Made when a socket was accepted; `run` serves it until it ends."""

    def __init__(self, core: Core, websocket: WebSocket, link: Link) -> None:
        settings = core.settings
        self.id = uuid.uuid4().hex
        self.outbox = Outbox(settings.ws_queue_bytes)
        self.subscriptions: dict[StreamKey, tuple[Subscription, Feed]] = {}
        self.closing = False
        self.stuck_since: float | None = None
        self._core = core
        self._websocket = websocket
        self._link = link
        self._authorized = core.keys.open
        self._opened = time.monotonic()
        self._batch = False
        self._catch_up = CatchUp(self, core.hub, core.backfill)
        self._catching: asyncio.Task[None] | None = None
        self._group: asyncio.TaskGroup | None = None
        self._room = asyncio.Event()
        self._bucket = TokenBucket(settings.ws_max_msgs_per_sec, settings.ws_burst, self._opened)
        self._strikes = TokenBucket(_STRIKES_PER_S, _STRIKES, self._opened)
        self._low_water = min(64 * 1024, settings.ws_queue_bytes // 4)
        link.listen(self._on_resume)

    # ------------------------------------------------------------------ life

    async def run(self, offered_key: str | None) -> None:
        """Greet, then obey commands until the client leaves or is closed."""
        self._tell_welcome()
        if offered_key is not None:
            self._authorize(offered_key, None)
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
            for subscription, feed in self.subscriptions.values():
                self._let_go(subscription, feed)
            self.subscriptions.clear()

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
        METRICS.closed.labels(reason).inc()
        while self.outbox.control:
            self._link.write(self._framed(self.outbox.take(0)))
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
        while self.outbox and not self._link.paused:
            if not self._link.write(self._framed(self.outbox.take(_WRITE_BYTES))):
                self.outbox.data.clear()
                self.outbox.size = 0
                return
        if self.outbox.size <= self._low_water:
            self._room.set()
        self.stuck_since = None if not self._link.paused else self.stuck_since or time.monotonic()

    def _framed(self, frames: bytes) -> bytes:
        if not self._batch:
            return frames
        payloads = payloads_of(frames)
        return frames if len(payloads) < 2 else text_frame(b"[" + b",".join(payloads) + b"]")

    def _on_resume(self) -> None:
        self.stuck_since = None
        self._core.hub.drained(self)

    async def room(self) -> None:
        while self.outbox.size > self._low_water or self._link.paused:
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
            self.outbox.put(frame)
        self._core.hub.touch(self)

    def tell_problem(
        self, problem: Problem, id: CommandId | None = None, *, control: bool = True
    ) -> None:
        """Send an `error` message, before the data or (`control` False) behind it."""
        METRICS.errors.labels(str(problem.code.code)).inc()
        id = problem.id if problem.id is not None else id
        self.tell({"type": "error", **_echo(id), **problem.body()}, control=control)

    def _tell_welcome(self) -> None:
        settings = self._core.settings
        self.tell(
            {
                "type": "welcome",
                "session": self.id,
                "protocol": SUBPROTOCOL,
                "server_time": time.time_ns() // 1000,
                "heartbeat_ms": settings.ws_heartbeat_ms,
                "auth": "ok" if self._authorized else "required",
                "limits": {
                    "max_message_bytes": MAX_MESSAGE_BYTES,
                    "max_subscriptions": settings.ws_max_subscriptions,
                    "commands_per_second": settings.ws_max_msgs_per_sec,
                    "command_burst": settings.ws_burst,
                    "queue_bytes": settings.ws_queue_bytes,
                    "backfill_minutes": settings.backfill_max_minutes,
                    "product_messages_per_second": settings.product_max_msgs_per_sec,
                },
            },
            control=True,
        )

    # ------------------------------------------------------------------ what the clock says

    def heartbeat(self, now_us: int) -> None:
        """Send `hb`. Heads are named only when the client was sent everything up to them."""
        heads: dict[str, int] = {}
        if self.writable:
            for key, (subscription, feed) in self.subscriptions.items():
                head = feed.replica.head
                if not subscription.live or head is None:
                    continue
                conflation = subscription.conflation
                seq = head.seq if conflation is None else conflation.held
                if seq is not None:
                    heads[str(key)] = seq
        self.tell({"type": "hb", "server_time": now_us, "heads": heads}, control=True)

    def overdue(self, now: float) -> tuple[Problem, str] | None:
        """Why this connection has to be closed now, and the reason's name; None: it has not."""
        settings = self._core.settings
        if self.stuck_since is not None and now - self.stuck_since > settings.ws_slow_close_s:
            text = f"nothing was read for {settings.ws_slow_close_s:.0f} s"
            return Problem(SLOW_CLOSED, text, resume=self.resume()), "slow_closed"
        if not self._authorized and now - self._opened > settings.ws_auth_timeout_s:
            return Problem(AUTH_REQUIRED, "no valid key came in time"), "auth_required"
        return None

    def resume(self) -> dict[str, Any]:
        """For each stream, where a new connection can go on: what this client was sent last."""
        places: dict[str, Any] = {}
        for key, (subscription, feed) in self.subscriptions.items():
            head = feed.replica.head
            if head is None:
                continue
            epoch, seq = head.epoch, head.seq
            if subscription in self._catch_up:
                if subscription.seq is None:
                    continue
                epoch, seq = subscription.position.epoch, subscription.seq
            elif subscription.conflation is not None and subscription.conflation.held is not None:
                seq = subscription.conflation.held
            places[str(key)] = {"epoch": epoch, "seq": seq, "cursor": make_cursor(epoch, seq)}
        return places

    # ------------------------------------------------------------------ what the hub says

    def fell_behind(self, subscription: Subscription, records: int) -> None:
        found = self.subscriptions.get(subscription.fan.key)
        if found is None:
            return
        METRICS.slow.labels("catch_up").inc()
        subscription.reason = "slow"
        subscription.count = 0
        position = subscription.position
        subscription.seq = position.seq if position != BEGINNING else None
        self._tell_mode(subscription, subscription.mode, "catch_up", "slow", records)
        self._begin_catch_up(subscription, found[1])

    def rebased(self, subscription: Subscription) -> None:
        found = self.subscriptions.get(subscription.fan.key)
        if found is not None:
            self._core.hub.detach(subscription)
            self._catch_up.go_live(subscription, found[1], "catch_up")

    def over_quota(self, subscription: Subscription) -> None:
        rate = self._core.settings.product_max_msgs_per_sec
        METRICS.rate_limited.labels("product").inc()
        self._tell_mode(subscription, "full", "latest", "quota", 0)
        self.tell(
            {
                "type": "rate_limit",
                "scope": "product",
                "retry_after_ms": int(1000 / rate) + 1,
                "product": subscription.fan.key.product,
                "stream": str(subscription.fan.key),
            },
            control=True,
        )

    def refuse(self, problem: Problem, subscription: Subscription) -> None:
        key = subscription.fan.key
        found = self.subscriptions.pop(key, None)
        if found is not None:
            self._let_go(*found)
        self.tell_problem(_at(problem, key))

    def _tell_mode(
        self, subscription: Subscription, old: str, new: str, reason: str, lag: int
    ) -> None:
        key = subscription.fan.key
        self.tell(
            {
                "type": "mode",
                "stream": str(key),
                **stream_fields(key),
                "from": old,
                "to": new,
                "reason": reason,
                "lag": lag,
            },
            control=True,
        )

    def _begin_catch_up(self, subscription: Subscription, feed: Feed) -> None:
        self._catch_up.add(subscription, feed)
        self._start_catching()

    def _start_catching(self) -> None:
        # Most clients never catch up on anything; the task is made for those that do.
        if self._catching is None and self._group is not None and not self.closing:
            self._catching = self._group.create_task(self._catch_up.run(), name="catch-up")

    def _let_go(self, subscription: Subscription, feed: Feed) -> None:
        self._core.hub.detach(subscription)
        self._catch_up.remove(subscription)
        self._core.tails.release(feed)
        METRICS.subscriptions.labels(*subscription.fan.labels).dec()

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
            {"type": "rate_limit", **_echo(id), "scope": "commands", "retry_after_ms": retry},
            control=True,
        )
        await self._strike(_RATE_STRIKE)

    async def _strike(self, weight: float) -> None:
        if self._strikes.take(time.monotonic(), weight) > 0:
            await self.close(1008, "abuse")

    async def _obey(self, command: Command, id: CommandId | None) -> None:
        if isinstance(command, Ping):
            pong: dict[str, Any] = {"type": "pong", **_echo(id), "ts": command.ts}
            self.tell({**pong, "server_time": time.time_ns() // 1000}, control=True)
        elif isinstance(command, Auth):
            self._authorize(command.api_key, id)
        elif not self._authorized:
            raise Problem(AUTH_REQUIRED, "send `auth` with a valid key first")
        elif isinstance(command, Subscribe):
            await self._subscribe(command, id)
        elif isinstance(command, Unsubscribe):
            self._unsubscribe(command, id)
        elif isinstance(command, Resync):
            await self._resync(command, id)

    def _authorize(self, key: str, id: CommandId | None) -> None:
        if self._core.keys.open or self._core.keys.accepts(key):
            self._authorized = True
            self.tell({"type": "auth", **_echo(id), "ok": True}, control=True)
        else:
            self._authorized = False
            self.tell_problem(Problem(KEY_INVALID, "this API key is not known"), id)

    async def _subscribe(self, command: Subscribe, id: CommandId | None) -> None:
        arrived = time.monotonic()
        products = command.all_products
        catalog = self._core.catalog
        unsure: set[str] = set()
        try:
            known = await catalog.knows(command.venue, products)
        except BrokerUnavailable:
            unsure = catalog.unseen(command.venue, products)
            known = set(products) - unsure
        keys = [
            StreamKey(command.venue, channel, product)
            for channel in command.all_channels
            for product in products
        ]
        plans = await self._plan_all(command, keys, known, unsure)
        # From here on nothing awaits: what follows the heads told now is what comes next.
        if command.batch is not None:
            self._batch = command.batch
        self.tell(
            {"type": "subscribed", **_echo(id), "results": [_result(p, command) for p in plans]},
        )
        for plan in plans:
            if plan.problem is None:
                self._begin(plan, command, arrived)
            elif 4000 <= plan.problem.code.code < 5000:
                self.tell_problem(_at(plan.problem, plan.key), id, control=False)

    async def _plan_all(
        self, command: Subscribe, keys: Sequence[StreamKey], known: set[str], unsure: set[str]
    ) -> list[_Plan]:
        plans = [_Plan(key) for key in keys]
        room = self._core.settings.ws_max_subscriptions - len(self.subscriptions)
        for plan in plans:
            try:
                _check_stream(plan.key, known, unsure)
                if plan.key not in self.subscriptions:
                    if room <= 0:
                        limit = self._core.settings.ws_max_subscriptions
                        raise Problem(SUBSCRIPTION_LIMIT, f"at most {limit} streams a connection")
                    room -= 1
            except Problem as problem:
                plan.problem = problem
        await asyncio.gather(*(self._plan(command, plan) for plan in plans if not plan.problem))
        return plans

    async def _plan(self, command: Subscribe, plan: _Plan) -> None:
        held = self.subscriptions.get(plan.key)
        if held is None:
            feed = self._core.tails.acquire(plan.key)
            subscription = Subscription(self, feed.fan)
            self.subscriptions[plan.key] = (subscription, feed)
            METRICS.subscriptions.labels(*feed.fan.labels).inc()
        else:
            subscription, feed = held
        plan.subscription, plan.feed = subscription, feed
        try:
            await _ready(feed)
            await self._place(command, plan, feed)
        except BrokerUnavailable as error:
            plan.problem = Problem(BROKER_UNAVAILABLE, error.reason, retry_after_ms=1000)
        except Problem as problem:
            plan.problem = problem
        if plan.problem is not None and held is None:
            self.subscriptions.pop(plan.key, None)
            self._let_go(subscription, feed)

    async def _place(self, command: Subscribe, plan: _Plan, feed: Feed) -> None:
        """Decide what this stream begins with."""
        from_seq, epoch = command.position_of(plan.key.product)
        if (
            plan.subscription is not None
            and plan.subscription.live
            and from_seq is None
            and command.depth in (None, plan.subscription.depth)
            and (command.mode is not None or command.max_rate is not None)
        ):
            plan.kind, plan.change = "live", True
            return
        if from_seq is not None:
            now_us = time.time_ns() // 1000
            try:
                plan.start = await self._core.backfill.start(feed, from_seq, epoch, now_us)
                plan.kind = "backfill"
                return
            except Problem as problem:
                if command.on_unrecoverable == "error":
                    raise
                plan.reason = "catch_up"
                plan.more["warning"] = problem.body()
        if feed.replica.head is None or not (command.snapshot or plan.reason == "catch_up"):
            plan.kind = "live"
        elif feed.replica.state() is None:
            raise Problem(BROKER_UNAVAILABLE, NO_STATE, retry_after_ms=1000)

    def _begin(self, plan: _Plan, command: Subscribe, arrived: float) -> None:
        subscription, feed = plan.subscription, plan.feed
        assert subscription is not None
        assert feed is not None
        if plan.change:
            self._change(subscription, feed, command)
            return
        status = feed.replica.status
        if status is not None:
            self.tell(status.payload)
        self._core.hub.detach(subscription)
        self._catch_up.remove(subscription)
        _configure(subscription, command)
        if plan.start is not None:
            self._begin_backfill(subscription, feed, plan.start)
            return
        self._catch_up.go_live(
            subscription, feed, plan.reason, with_snapshot=plan.kind == "snapshot"
        )
        if subscription in self._catch_up:
            self._start_catching()
        METRICS.snapshot_seconds.labels(*feed.fan.labels).observe(time.monotonic() - arrived)

    def _change(self, subscription: Subscription, feed: Feed, command: Subscribe) -> None:
        """Go on in another mode or rate, with nothing between lost."""
        old = subscription.mode
        self._core.hub.settle(subscription)
        self._core.hub.detach(subscription)
        depth = subscription.depth
        _configure(subscription, command)
        subscription.depth = depth
        head = feed.replica.head
        self._core.hub.attach(subscription, head.seq if head is not None else None)
        if subscription.mode != old:
            self._tell_mode(subscription, old, subscription.mode, "request", 0)

    def _begin_backfill(self, subscription: Subscription, feed: Feed, start: Start) -> None:
        head = feed.replica.head
        subscription.reason = "backfill"
        subscription.position = start.position
        subscription.seq = subscription.start = start.seq
        subscription.count = 0
        self.tell(
            {
                "type": "backfill",
                "state": "begin",
                "stream": str(feed.key),
                **stream_fields(feed.key),
                "from": start.seq,
                "to": head.seq if head is not None else start.seq,
                "count": None,
                "complete": start.complete,
            }
        )
        self._begin_catch_up(subscription, feed)

    def _unsubscribe(self, command: Unsubscribe, id: CommandId | None) -> None:
        results: list[dict[str, Any]] = []
        for channel in command.all_channels:
            for product in command.all_products:
                key = StreamKey(command.venue, channel, product)
                held = self.subscriptions.pop(key, None)
                result: dict[str, Any] = {**stream_fields(key), "stream": str(key)}
                if held is None:
                    problem = Problem(NOT_SUBSCRIBED, "there is no such subscription")
                    results.append({**result, "ok": False, "error": problem.body()})
                else:
                    self._let_go(*held)
                    results.append({**result, "ok": True})
        self.tell({"type": "unsubscribed", **_echo(id), "results": results})

    async def _resync(self, command: Resync, id: CommandId | None) -> None:
        for channel in command.all_channels:
            for product in command.all_products:
                key = StreamKey(command.venue, channel, product)
                held = self.subscriptions.get(key)
                if held is None:
                    problem = Problem(NOT_SUBSCRIBED, "there is no such subscription")
                    self.tell_problem(_at(problem, key), id)
                    continue
                subscription, feed = held
                await _ready(feed)
                self._core.hub.detach(subscription)
                self._catch_up.go_live(subscription, feed, "resync")
                if subscription in self._catch_up:
                    self._start_catching()


def _result(plan: _Plan, command: Subscribe) -> dict[str, Any]:
    names = {**stream_fields(plan.key), "stream": str(plan.key)}
    if plan.problem is not None:
        return {**names, "ok": False, "error": plan.problem.body()}
    assert plan.feed is not None
    head = plan.feed.replica.head
    mode = command.mode or ("latest" if command.max_rate else "full")
    return {
        **names,
        "ok": True,
        "epoch": head.epoch if head is not None else None,
        "seq": head.seq if head is not None else None,
        "start": plan.kind,
        "mode": mode,
        "max_rate": command.max_rate if mode == "latest" else None,
        "depth": command.depth or 0,
        **plan.more,
    }


def _configure(subscription: Subscription, command: Subscribe) -> None:
    mode: Mode = command.mode or ("latest" if command.max_rate else "full")
    subscription.mode = mode
    subscription.max_rate = command.max_rate if mode == "latest" else None
    subscription.depth = command.depth or 0
    subscription.on_unrecoverable = command.on_unrecoverable


def _check_stream(key: StreamKey, known: set[str], unsure: set[str]) -> None:
    if key.channel not in CHANNELS:
        raise Problem(UNKNOWN_CHANNEL, f"channel: expected one of {', '.join(CHANNELS)}")
    try:
        check_token(key.venue)
        check_token(key.product)
    except InvalidSubject as error:
        raise Problem(UNKNOWN_PRODUCT, str(error)) from error
    if key.product in unsure:
        raise Problem(BROKER_UNAVAILABLE, "the log does not answer", retry_after_ms=1000)
    if key.product not in known:
        raise Problem(UNKNOWN_PRODUCT, f"{key.venue} has no product {key.product}")


async def _ready(feed: Feed) -> None:
    try:
        async with asyncio.timeout(_READY_S):
            await feed.ready.wait()
    except TimeoutError:
        message = "the log does not answer"
        raise Problem(BROKER_UNAVAILABLE, message, retry_after_ms=1000) from None


def _at(problem: Problem, key: StreamKey) -> Problem:
    problem.more.setdefault("stream", str(key))
    return problem


def _echo(id: CommandId | None) -> dict[str, CommandId]:
    return {} if id is None else {"id": id}
