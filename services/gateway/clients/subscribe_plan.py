"""What a `subscribe` does with each of its streams: what it begins with, or why it does not."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

from services.common.errors import InvalidSubject
from services.common.subjects import CHANNELS, StreamKey, check_token
from services.gateway.backfill import Backfill, Start
from services.gateway.chain.stream_record import SnapshotReason, stream_fields
from services.gateway.clients.catch_up import NO_STATE
from services.gateway.fanout.subscription import Mode, Subscription, Terms, View
from services.gateway.protocol import (
    UNKNOWN_CHANNEL,
    UNKNOWN_PRODUCT,
    Problem,
    Subscribe,
    unavailable,
)
from services.gateway.streams.feed import StreamFeed

_READY_S = 5.0


@dataclass
class SubscribePlan:
    """What a `subscribe` will do with one stream, or why it will not."""

    key: StreamKey
    feed: StreamFeed | None = None
    subscription: Subscription | None = None
    start: Start | None = None
    kind: str = "snapshot"
    reason: SnapshotReason = "subscribe"
    # The subscription was made for this command.
    begun: bool = False
    # The stream is followed already and only the way of sending changes.
    change: bool = False
    problem: Problem | None = None
    more: dict[str, Any] = field(default_factory=dict)

    def result(self, command: Subscribe) -> dict[str, Any]:
        """What `subscribed` says of it."""
        names = {**stream_fields(self.key), "stream": str(self.key)}
        if self.problem is not None:
            return {**names, "ok": False, "error": self.problem.body()}
        assert self.feed is not None
        head = self.feed.replica.head
        terms = terms_of(command)
        return {
            **names,
            "ok": True,
            "epoch": head.epoch if head is not None else None,
            "seq": head.seq if head is not None else None,
            "start": self.kind,
            "mode": terms.mode,
            "max_rate": terms.max_rate,
            **terms.view._asdict(),
            **self.more,
        }


async def find_position(
    plan: SubscribePlan, command: Subscribe, feed: StreamFeed, backfill: Backfill
) -> None:
    """Find in the log the position that the command names, if it names one.

    Raises:
        Problem: it is not there, and the client wants nothing else.
    """
    from_seq, epoch = command.position_of(plan.key.product)
    if from_seq is None:
        return
    now_us = time.time_ns() // 1000
    try:
        plan.start = await backfill.start(feed, from_seq, epoch, now_us, late=bool(command.late))
    except Problem as problem:
        if command.on_unrecoverable == "error":
            raise
        plan.reason = "catch_up"
        plan.more["warning"] = problem.body()
    else:
        if plan.start.warning is not None:
            plan.more["warning"] = plan.start.warning


def decide(plan: SubscribePlan, command: Subscribe) -> None:
    """Decide what this stream begins with, by where it stands now.

    To be called when nothing is awaited any more before it begins: a stream that was empty, or a
    subscription that was live, while others were planned need not be so by then.

    Raises:
        Problem: it cannot begin.
    """
    subscription, feed = plan.subscription, plan.feed
    assert subscription is not None
    assert feed is not None
    replica = feed.replica
    if plan.start is not None:
        plan.kind = "backfill"
    elif subscription.live and plan.reason == "subscribe" and _changes_only(command, subscription):
        plan.kind, plan.change = "live", True
    elif replica.head is None or not (command.snapshot or plan.reason == "catch_up"):
        plan.kind = "live"
    elif not replica.stateful:
        raise unavailable(NO_STATE)
    else:
        plan.kind = "snapshot"


def _changes_only(command: Subscribe, subscription: Subscription) -> bool:
    """Whether the command asks for another way of sending a stream, and for nothing else."""
    view = subscription.terms.view
    return (
        command.depth in (None, view.depth)
        and command.late in (None, view.late)
        and (command.mode is not None or command.max_rate is not None)
    )


def terms_of(command: Subscribe) -> Terms:
    """How the command wants streams sent."""
    mode: Mode = command.mode or ("latest" if command.max_rate else "full")
    return Terms(
        mode,
        command.max_rate if mode == "latest" else None,
        View(command.depth or 0, bool(command.late)),
        command.on_unrecoverable,
    )


def check_stream(key: StreamKey, known: set[str], unsure: set[str]) -> None:
    """Check that there is such a stream; `known` and `unsure` are products of its venue.

    Raises:
        Problem: there is not, or nobody can tell now.
    """
    if key.channel not in CHANNELS:
        raise Problem(UNKNOWN_CHANNEL, f"channel: expected one of {', '.join(CHANNELS)}")
    try:
        check_token(key.venue)
        check_token(key.product)
    except InvalidSubject as error:
        raise Problem(UNKNOWN_PRODUCT, str(error)) from error
    if key.product in unsure:
        raise unavailable()
    if key.product not in known:
        raise Problem(UNKNOWN_PRODUCT, f"{key.venue} has no product {key.product}")


async def when_ready(feed: StreamFeed) -> None:
    """Return when the stream has a position to begin from.

    Raises:
        Problem: the log did not answer in time.
    """
    try:
        async with asyncio.timeout(_READY_S):
            await feed.ready.wait()
    except TimeoutError:
        raise unavailable() from None


def at_stream(problem: Problem, key: StreamKey) -> Problem:
    """The same problem, which names its stream."""
    problem.more.setdefault("stream", str(key))
    return problem
