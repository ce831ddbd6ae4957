"""Bringing clients to the head of a stream: backfills, and the way back of those who were slow.

One `CatchUp` serves one client. While a subscription catches up it is not live: nothing queues for
it. It reads on from where it stands, from the window where that reaches far enough, else from the
log, or the archive where the log begins later, as fast as the client takes it, and goes live in the
same turn in which it meets the head.
"""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Iterable
from typing import Any

import structlog

from services.common.errors import BrokerError, PositionLost, StoreUnavailable
from services.common.wire import encode
from services.gateway.audience import BEGINNING, Client, Subscription
from services.gateway.backfill import Backfill
from services.gateway.feed import Feed
from services.gateway.frames import text_frame
from services.gateway.hub import Hub
from services.gateway.metrics import METRICS
from services.gateway.protocol import BROKER_UNAVAILABLE, TOO_OLD, CommandId, Problem
from services.gateway.records import Entry, SnapshotReason, stream_fields
from services.gateway.window import Run

log = structlog.get_logger(__name__)

# Payload bytes handed to the client at once; between two such pieces others get their turn.
_CHUNK = 64 * 1024
_RETRY_FIRST_S = 0.1
_RETRY_MOST_S = 2.0
_EMPTY_READS = 5


class CatchingUp(Client):
    """What catching up needs of a connection."""

    __slots__ = ()

    @abstractmethod
    def tell(self, message: dict[str, Any] | bytes, *, control: bool = False) -> None:
        """Put a message into the outbox, behind the data or (`control`) before it."""

    @abstractmethod
    def tell_problem(
        self, problem: Problem, id: CommandId | None = None, *, control: bool = True
    ) -> None:
        """Send an `error` message, before the data or (`control` False) behind it."""

    @abstractmethod
    def refuse(self, problem: Problem, subscription: Subscription) -> None:
        """Tell that the subscription ended with this error, and end it."""

    @abstractmethod
    async def room(self) -> None:
        """Return when little waits for this client."""

    @abstractmethod
    async def answered(self) -> None:
        """Return when there is room for another piece of an answer."""


class CatchUp:
    """The subscriptions of one client that are not live."""

    __slots__ = ("_backfill", "_client", "_hub", "_waiting", "_wake")

    def __init__(self, client: CatchingUp, hub: Hub, backfill: Backfill) -> None:
        self._client = client
        self._hub = hub
        self._backfill = backfill
        self._waiting: dict[Subscription, Feed] = {}
        # Made by `run`: most clients never catch up on anything.
        self._wake: asyncio.Event | None = None

    def add(self, subscription: Subscription, feed: Feed) -> None:
        """Bring it to the head from `subscription.position` on."""
        subscription.since = time.monotonic()
        subscription.cursor = ""
        subscription.page.clear()
        self._waiting[subscription] = feed
        if self._wake is not None:
            self._wake.set()

    def remove(self, subscription: Subscription) -> None:
        self._waiting.pop(subscription, None)
        subscription.preface.clear()
        subscription.page.clear()

    def __contains__(self, subscription: Subscription) -> bool:
        return subscription in self._waiting

    async def run(self) -> None:
        """Serve all of them in turns, until cancelled."""
        wake = self._wake = asyncio.Event()
        while True:
            if not self._waiting:
                wake.clear()
                await wake.wait()
            for subscription, feed in list(self._waiting.items()):
                await self._client.room()
                if subscription in self._waiting:
                    await self._step(subscription, feed)

    # ------------------------------------------------------------------ one piece at a time

    async def _step(self, subscription: Subscription, feed: Feed) -> None:
        async with self._backfill.turn:
            if subscription not in self._waiting:
                return
            if self._give_next(subscription, feed):
                # However many clients catch up, one piece is handed out in a turn of the event
                # loop, so that what is live waits for one at most.
                await asyncio.sleep(0)
                return
        if subscription.position >= (feed.replica.mark or BEGINNING):
            await feed.ready.wait()
        else:
            await self._read(subscription, feed)

    def _give_next(self, subscription: Subscription, feed: Feed) -> bool:
        """Hand out what is here; False when there is nothing but in the log."""
        if subscription.preface:
            self._put(subscription.preface.popleft())
            return True
        if subscription.page:
            self._give(subscription, feed, subscription.page)
            return True
        replica = feed.replica
        if subscription.position >= (replica.mark or BEGINNING):
            if feed.ready.is_set():
                self._arrive(subscription, feed)
            return feed.ready.is_set()
        if not replica.window.covers(subscription.position):
            return False
        run = replica.window.run_after(subscription.position)
        if run is None:
            return False
        subscription.cursor = ""
        self._give_run(subscription, feed, run)
        return True

    async def _read(self, subscription: Subscription, feed: Feed) -> None:
        delay = _RETRY_FIRST_S
        empty = 0
        while subscription in self._waiting:
            position = subscription.position
            try:
                page, cursor = await self._page(subscription, feed)
            except PositionLost:
                subscription.cursor = ""
                empty += 1
            except (BrokerError, StoreUnavailable) as error:
                log.warning("backfill_waits", stream=str(feed.key), reason=str(error))
            else:
                if subscription not in self._waiting or subscription.position != position:
                    # Something else moved it meanwhile, and the page is not what follows.
                    return
                subscription.cursor = cursor
                subscription.page = page
                if page:
                    return
                # The log's head, though the replica has more: a copy of the log that lags, or the
                # log was lost meanwhile.
                empty += 1
                subscription.cursor = ""
            if empty > _EMPTY_READS:
                self._lost(subscription, feed)
                return
            await asyncio.sleep(delay)
            delay = min(delay * 2, _RETRY_MOST_S)

    async def _page(self, subscription: Subscription, feed: Feed) -> tuple[deque[Entry], str]:
        """What follows in the log, or in the archive where the log begins later."""
        position = subscription.position
        page, cursor = await self._backfill.read(feed, position, subscription.cursor)
        linked = _linked(page, subscription)
        if linked:
            return deque(linked), cursor if len(linked) == len(page) else ""
        now_us = time.time_ns() // 1000 if subscription.reason == "slow" else None
        archived = _linked(await self._backfill.archived(feed, position, now_us), subscription)
        return (deque(archived), "") if archived else (page, cursor)

    def _give(self, subscription: Subscription, feed: Feed, entries: deque[Entry]) -> None:
        frames: list[bytes] = []
        size = ticks = 0
        while entries and size < _CHUNK:
            entry = entries.popleft()
            if not _links(entry, subscription):
                subscription.count += ticks
                self._put(b"".join(frames))
                self._lost(subscription, feed)
                return
            if entry.chained:
                subscription.seq = entry.position.seq
                ticks += 1
            subscription.position = entry.position
            for message in entry.messages(subscription.depth):
                frames.append(text_frame(message))
                size += len(message)
        subscription.count += ticks
        self._put(b"".join(frames))
        METRICS.backfill_ticks.labels(*subscription.fan.labels).inc(ticks)

    def _give_run(self, subscription: Subscription, feed: Feed, run: Run) -> None:
        if run.frames is None or not _links(run.entries[0], subscription):
            self._give(subscription, feed, deque(run.entries))
            return
        # A window is contiguous: where its first record follows, all do.
        last = run.entries[-1]
        subscription.position = last.position
        if run.chained:
            subscription.seq = last.position.seq
        subscription.count += run.chained
        self._put(run.frames)
        METRICS.backfill_ticks.labels(*subscription.fan.labels).inc(run.chained)

    def _put(self, frames: bytes) -> None:
        if frames:
            self._client.outbox.put(frames)
            self._hub.touch(self._client)

    def _arrive(self, subscription: Subscription, feed: Feed) -> None:
        head = feed.replica.head
        if head is not None and subscription.seq not in (None, head.seq):
            self._lost(subscription, feed)
            return
        self.remove(subscription)
        self._end(subscription, complete=True)
        if subscription.mode == "latest" and subscription.reason == "slow":
            # A merged stream needs no past, only the state now.
            self.go_live(subscription, feed, "catch_up")
        else:
            self._hub.attach(subscription, subscription.seq)
        if (news := feed.news(time.monotonic() - subscription.since)) is not None:
            self._client.tell(news)
        if subscription.reason == "slow":
            METRICS.slow.labels("recovered").inc()
            self._client.tell(
                {
                    "type": "mode",
                    "stream": str(feed.key),
                    **stream_fields(feed.key),
                    "from": "catch_up",
                    "to": subscription.mode,
                    "reason": "recovered",
                    "lag": subscription.count,
                }
            )

    def _end(self, subscription: Subscription, *, complete: bool) -> None:
        if subscription.reason != "backfill":
            return
        seconds = time.monotonic() - subscription.since
        METRICS.backfill_seconds.labels(*subscription.fan.labels).observe(seconds)
        key = subscription.fan.key
        self._client.tell(
            {
                "type": "backfill",
                "state": "end",
                "stream": str(key),
                **stream_fields(key),
                "from": subscription.start,
                "to": subscription.seq,
                "count": subscription.count,
                "complete": complete,
            }
        )

    def _lost(self, subscription: Subscription, feed: Feed) -> None:
        """The log does not hold what this client needs next: say what it misses, begin anew."""
        self.remove(subscription)
        self._end(subscription, complete=False)
        head = feed.replica.head
        if subscription.reason == "backfill" and subscription.on_unrecoverable == "error":
            message = "what follows the last record sent expired before it could be read"
            oldest = head.seq if head is not None else None
            self._client.refuse(Problem(TOO_OLD, message, oldest_seq=oldest), subscription)
            return
        if head is not None:
            self._client.tell(_announced_loss(feed, subscription.seq))
        METRICS.slow.labels("lost").inc()
        self.go_live(subscription, feed, "catch_up")

    # ------------------------------------------------------------------ with a snapshot

    def go_live(
        self,
        subscription: Subscription,
        feed: Feed,
        reason: SnapshotReason,
        *,
        with_snapshot: bool = True,
    ) -> None:
        """Send the state and everything after it; at once where there is room for it."""
        self.remove(subscription)
        replica = feed.replica
        head = replica.head
        held = head.seq if head is not None else None
        if head is None or not with_snapshot:
            self._hub.attach(subscription, held)
            return
        parts = feed.snapshot_parts(reason, subscription.depth)
        if parts is None:
            problem = Problem(BROKER_UNAVAILABLE, NO_STATE, retry_after_ms=1000)
            self._client.refuse(problem, subscription)
            return
        outbox = self._client.outbox
        size = sum(map(len, parts))
        if not outbox.data or outbox.size + size <= outbox.limit:
            for part in parts:
                self._put(part)
            self._hub.attach(subscription, held)
            return
        subscription.reason = "snapshot"
        subscription.position = replica.mark or BEGINNING
        subscription.seq = held
        self.add(subscription, feed)
        subscription.preface = deque(parts)


NO_STATE = "the stream's whole state is not known here yet"


def _links(entry: Entry, subscription: Subscription) -> bool:
    """Whether nothing is missing between what the client holds and this record."""
    if entry.unreadable is not None:
        return False
    held = subscription.seq
    if held is None:
        return True
    if not entry.chained:
        # A status names the seq it was written after; a greater one was never sent.
        same_epoch = entry.position.epoch == subscription.position.epoch
        return not same_epoch or entry.position.seq <= held
    if entry.prev == held:
        return True
    # By its own word a client may hold a seq between two records; nothing is missing then.
    first = subscription.reason == "backfill" and subscription.count == 0
    return first and (entry.prev or 0) <= held < entry.position.seq


def _linked(entries: Iterable[Entry], subscription: Subscription) -> list[Entry]:
    """As many of them, from the first on, as go on from where the client stands without a hole."""
    found: list[Entry] = []
    held: int | None = None
    for entry in entries:
        if held is None:
            if not _links(entry, subscription):
                break
        elif entry.chained and (entry.prev != held or entry.unreadable is not None):
            break
        if entry.chained:
            held = entry.position.seq
        found.append(entry)
    return found


def _announced_loss(feed: Feed, held: int | None) -> bytes:
    head = feed.replica.head
    assert head is not None
    reset: dict[str, Any] = {
        "type": "reset",
        "v": 1,
        **stream_fields(feed.key),
        "shard": feed.shard,
        "epoch": head.epoch,
        "seq": head.seq,
        "prev": held,
        "ts_event": feed.replica.last_ingest,
        "ts_ingest": feed.replica.last_ingest,
        "cause": "retention",
        "repair": "snapshot",
    }
    if held is not None and held < head.seq:
        reset["missed"] = {"from": held + 1, "to": head.seq}
    return encode(reset)
