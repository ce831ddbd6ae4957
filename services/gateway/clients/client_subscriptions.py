"""The streams of one connection: what it subscribed to, and what each of them begins with."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from itertools import batched
from typing import TYPE_CHECKING, Any

import structlog

from services.common.errors import BrokerFailed, BrokerUnavailable
from services.common.subjects import StreamKey
from services.gateway.admission.auth import EVERYONE, Grant
from services.gateway.backfill import Start
from services.gateway.chain.stream_record import stream_fields
from services.gateway.clients.catch_up import CatchUp, backfill_message, mode_message
from services.gateway.clients.dependencies import GatewayParts, max_subscriptions
from services.gateway.clients.subscribe_plan import (
    SubscribePlan,
    at_stream,
    check_stream,
    decide,
    find_position,
    terms_of,
    when_ready,
)
from services.gateway.fanout.live_streams import SubscriptionListener
from services.gateway.fanout.subscription import Catching, Subscription
from services.gateway.protocol import (
    NOT_ENTITLED,
    NOT_SUBSCRIBED,
    SUBSCRIPTION_LIMIT,
    CommandId,
    Problem,
    Resync,
    Subscribe,
    Unsubscribe,
    echo,
    make_cursor,
    unavailable,
)
from services.gateway.ratelimit import retry_after_ms
from services.gateway.streams.feed import StreamFeed
from services.gateway.streams.registry import StreamLease

if TYPE_CHECKING:
    from services.gateway.clients.session import Session

# Streams whose outcomes are told in one message; a command that names more is answered in parts.
_PART = 200

log = structlog.get_logger(__name__)


class ClientSubscriptions(SubscriptionListener):
    """See the module's docstring; `client`, the connection, is told everything."""

    __slots__ = ("_catch_up", "_client", "_closed", "_grant", "_parts", "by_stream", "limit")

    def __init__(self, parts: GatewayParts, client: Session) -> None:
        self.by_stream: dict[StreamKey, tuple[Subscription, StreamLease]] = {}
        self._parts = parts
        self._client = client
        self._catch_up = CatchUp(client, parts.hub, parts.backfill, parts.metrics)
        self.limit = max_subscriptions(parts.settings, None)
        self._grant = EVERYONE
        self._closed = False

    def allow(self, grant: Grant) -> None:
        """What the client may have from now on."""
        self._grant = grant
        self.limit = max_subscriptions(self._parts.settings, grant)

    def close(self) -> None:
        """Give everything back, and let go of the client, which is gone.

        Nothing of this may be used any more. What held each other is freed by that at once, not
        when the collector comes by.
        """
        while self.by_stream:
            _, held = self.by_stream.popitem()
            self._let_go(*held)
        self._closed = True
        self._catch_up.close()
        del self._client

    # ------------------------------------------------------------------ where the client stands

    def heads(self) -> dict[str, int]:
        """For each stream that is live, the last seq this client was sent."""
        heads: dict[str, int] = {}
        for key, (subscription, lease) in self.by_stream.items():
            head = lease.feed.replica.head
            if not subscription.live or head is None:
                continue
            conflation = subscription.conflation
            held = head if conflation is None else conflation.held
            if held is not None:
                heads[str(key)] = held.seq
        return heads

    def resume(self) -> dict[str, Any]:
        """For each stream, where a new connection can go on: what this client was sent last."""
        places: dict[str, Any] = {}
        for key, (subscription, lease) in self.by_stream.items():
            catching, conflation = subscription.catching, subscription.conflation
            if catching is not None:
                epoch, seq = catching.position.epoch, catching.seq
            elif not subscription.live:
                continue
            else:
                head = lease.feed.replica.head
                held = head if conflation is None else conflation.held or head
                epoch, seq = (held.epoch, held.seq) if held is not None else (0, None)
            if seq is None:
                continue
            places[str(key)] = {"epoch": epoch, "seq": seq, "cursor": make_cursor(epoch, seq)}
        return places

    # ------------------------------------------------------------------ what the hub says

    def fell_behind(self, subscription: Subscription, records: int) -> None:
        found = self.by_stream.get(subscription.live_stream.key)
        if found is None:
            return
        self._parts.metrics.slow.labels("catch_up").inc()
        self._tell_mode(subscription, subscription.terms.mode, "catch_up", "slow", records)
        self._catch_up.go_on(subscription, found[1].feed)

    def rebased(self, subscription: Subscription) -> None:
        found = self.by_stream.get(subscription.live_stream.key)
        if found is not None:
            feed = found[1].feed
            status = feed.status()
            if status is not None:
                # Those that came with what cannot be gone on from were not passed on.
                self._client.tell(status)
            self._catch_up.go_live(subscription, feed, "catch_up")

    def over_quota(self, subscription: Subscription) -> None:
        rate = self._parts.settings.product_max_msgs_per_sec
        self._parts.metrics.rate_limited.labels("product").inc()
        self._tell_mode(subscription, "full", "latest", "quota", 0)
        self._client.tell(
            {
                "type": "rate_limit",
                "scope": "product",
                "retry_after_ms": retry_after_ms(1 / rate),
                "product": subscription.live_stream.key.product,
                "stream": str(subscription.live_stream.key),
            },
            control=True,
        )

    def within_quota(self, subscription: Subscription) -> None:
        self._tell_mode(subscription, "latest", "full", "recovered", 0)

    def end_with(self, problem: Problem, subscription: Subscription) -> None:
        """End the subscription, and tell its client why."""
        key = subscription.live_stream.key
        found = self.by_stream.pop(key, None)
        if found is not None:
            self._let_go(*found)
        self._client.tell_problem(at_stream(problem, key))

    def _tell_mode(
        self, subscription: Subscription, old: str, new: str, reason: str, lag: int
    ) -> None:
        message = mode_message(subscription.live_stream.key, old, new, reason, lag)
        self._client.tell(message, control=True)

    def _let_go(self, subscription: Subscription, lease: StreamLease) -> None:
        self._parts.hub.end(subscription)
        self._catch_up.remove(subscription)
        lease.release()
        subscription.live_stream.metrics.subscriptions.dec()

    # ------------------------------------------------------------------ commands

    async def subscribe(self, command: Subscribe, id: CommandId | None) -> None:
        """Begin the streams named, or change how they are sent, and answer, part by part.

        Each part waits until the client has taken most of those before.
        """
        arrived = time.monotonic()
        products = command.all_products
        allowed = set(filter(self._grant.entitled, products))
        catalog = self._parts.catalog
        unsure: set[str] = set()
        try:
            known = await catalog.knows(command.venue, allowed)
        except (BrokerUnavailable, BrokerFailed):
            unsure = catalog.unseen(command.venue, allowed)
            known = allowed - unsure
        keys = command.streams
        for part, some in enumerate(batched(keys, _PART), start=1):
            plans = await self._plan_all(command, some, known, unsure)
            more = _part(part, len(keys))
            self._answer(command, {**echo(id), **more}, plans, arrived)
            await self._client.answered()

    def _answer(
        self, command: Subscribe, more: dict[str, Any], plans: list[SubscribePlan], arrived: float
    ) -> None:
        for plan in plans:
            if plan.problem is None and plan.key not in self.by_stream:
                # It was refused, and ended, while the others were being planned.
                plan.problem = unavailable("the stream ended while it was being set up")
        # Nothing here awaits: what follows the heads told now is what comes next.
        for plan in plans:
            if plan.problem is None:
                self._decide(plan, command)
        self._client.tell(
            {"type": "subscribed", **more, "results": [p.result(command) for p in plans]},
        )
        for plan in plans:
            if plan.problem is None:
                self._begin(plan, command, arrived)
            elif 4000 <= plan.problem.code.code < 5000:
                problem = at_stream(plan.problem, plan.key)
                self._client.tell_problem(problem, more.get("id"), control=False)

    async def _plan_all(
        self, command: Subscribe, keys: Sequence[StreamKey], known: set[str], unsure: set[str]
    ) -> list[SubscribePlan]:
        plans = [SubscribePlan(key) for key in keys]
        room = self.limit - len(self.by_stream)
        for plan in plans:
            try:
                if not self._grant.entitled(plan.key.product):
                    raise Problem(NOT_ENTITLED, f"this key does not cover {plan.key.product}")
                check_stream(plan.key, known, unsure)
                if plan.key not in self.by_stream:
                    if room <= 0:
                        message = f"at most {self.limit} streams a connection"
                        raise Problem(SUBSCRIPTION_LIMIT, message)
                    room -= 1
            except Problem as problem:
                plan.problem = problem.kept()
        async with asyncio.TaskGroup() as group:
            for plan in plans:
                if plan.problem is None:
                    group.create_task(self._plan(command, plan), name=f"plan:{plan.key}")
        return plans

    async def _plan(self, command: Subscribe, plan: SubscribePlan) -> None:
        if self._closed:
            # A task that was cancelled before it began may still begin, if those it is a part of
            # have not heard of it.
            return
        held = self.by_stream.get(plan.key)
        if held is None:
            lease = self._parts.streams.acquire(plan.key)
            subscription = Subscription(self._client, lease.feed.live_stream)
            self.by_stream[plan.key] = (subscription, lease)
            lease.feed.live_stream.metrics.subscriptions.inc()
        else:
            subscription, lease = held
        feed = lease.feed
        plan.subscription, plan.feed, plan.begun = subscription, feed, held is None
        try:
            await when_ready(feed)
            await find_position(plan, command, feed, self._parts.backfill)
        except (BrokerUnavailable, BrokerFailed) as error:
            # Its own words name servers, and are for the log.
            log.warning("subscribe_failed", stream=str(plan.key), reason=str(error))
            plan.problem = unavailable()
        except Problem as problem:
            plan.problem = problem.kept()
        if plan.problem is not None:
            self._give_up(plan)

    def _decide(self, plan: SubscribePlan, command: Subscribe) -> None:
        try:
            decide(plan, command)
        except Problem as problem:
            plan.problem = problem.kept()
            self._give_up(plan)

    def _give_up(self, plan: SubscribePlan) -> None:
        """Let go of what was begun for a plan that came to nothing."""
        held = self.by_stream.get(plan.key)
        if plan.begun and held is not None and held[0] is plan.subscription:
            del self.by_stream[plan.key]
            self._let_go(*held)

    def _begin(self, plan: SubscribePlan, command: Subscribe, arrived: float) -> None:
        subscription, feed = plan.subscription, plan.feed
        assert subscription is not None
        assert feed is not None
        if plan.change:
            self._change(subscription, feed, command)
            return
        status = feed.status()
        if status is not None:
            self._client.tell(status)
        self._parts.hub.rest(subscription)
        self._catch_up.remove(subscription)
        subscription.configure(terms_of(command))
        if plan.start is not None:
            self._begin_backfill(subscription, feed, plan.start)
            return
        self._catch_up.go_live(
            subscription, feed, plan.reason, with_snapshot=plan.kind == "snapshot"
        )
        feed.live_stream.metrics.snapshot_seconds.observe(time.monotonic() - arrived)

    def _change(self, subscription: Subscription, feed: StreamFeed, command: Subscribe) -> None:
        """Go on in another mode or rate, with nothing between lost."""
        old = subscription.terms.mode
        self._parts.hub.change(subscription, terms_of(command), feed.replica.head)
        new = subscription.terms.mode
        if new != old:
            self._tell_mode(subscription, old, new, "request", 0)

    def _begin_backfill(self, subscription: Subscription, feed: StreamFeed, start: Start) -> None:
        head = feed.replica.head
        to = head.seq if head is not None else start.seq
        self._client.tell(backfill_message(feed.key, "begin", start.asked, to, None, start.warning))
        catching = Catching(
            "backfill",
            start.position,
            start.seq,
            time.monotonic(),
            asked=start.asked,
            warning=start.warning,
        )
        self._catch_up.begin(subscription, feed, catching)

    async def unsubscribe(self, command: Unsubscribe, id: CommandId | None) -> None:
        """End the streams named, and answer as `subscribe` does."""
        keys = command.streams
        for part, some in enumerate(batched(keys, _PART), start=1):
            results = [self._end(key) for key in some]
            more = _part(part, len(keys))
            self._client.tell({"type": "unsubscribed", **echo(id), **more, "results": results})
            await self._client.answered()

    def _end(self, key: StreamKey) -> dict[str, Any]:
        held = self.by_stream.pop(key, None)
        result: dict[str, Any] = {**stream_fields(key), "stream": str(key)}
        if held is None:
            problem = Problem(NOT_SUBSCRIBED, "there is no such subscription")
            return {**result, "ok": False, "error": problem.body()}
        self._let_go(*held)
        return {**result, "ok": True}

    async def resync(self, command: Resync, id: CommandId | None) -> None:
        """Send the state of the streams named anew."""
        for key in command.streams:
            held = self.by_stream.get(key)
            if held is None:
                problem = Problem(NOT_SUBSCRIBED, "there is no such subscription")
                self._client.tell_problem(at_stream(problem, key), id)
                continue
            subscription, feed = held[0], held[1].feed
            await when_ready(feed)
            if self.by_stream.get(key) == held:
                # Else it was refused, and ended, while it was waited for.
                self._catch_up.go_live(subscription, feed, "resync")


def _part(part: int, streams: int) -> dict[str, Any]:
    """What says which part of an answer this is; nothing where the answer is one message."""
    return {} if streams <= _PART else {"part": part, "last": part * _PART >= streams}
