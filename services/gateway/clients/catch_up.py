"""Bringing clients to the head of a stream: backfills, and the way back of those who were slow.

One `CatchUp` serves one client. While a subscription catches up it is not live: nothing queues for
it. It reads on from where it stands, from the window where that reaches far enough, else from the
log, or the archive where the log begins later, as fast as the client takes it, and goes live in the
same turn in which it meets the head. What has to be fetched, or waited for, is so beside the other
streams: one that does not come holds up no other.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import structlog

from services.common.errors import BrokerError, PositionLost, StoreUnavailable
from services.common.resilience import Backoff
from services.common.subjects import StreamKey
from services.common.wire import encode
from services.gateway.backfill import Backfill
from services.gateway.chain.stream_record import SnapshotReason, StreamRecord, stream_fields
from services.gateway.fanout.hub import Hub
from services.gateway.fanout.subscription import BEGINNING, Catching, Piece, Subscription
from services.gateway.metrics import Metrics
from services.gateway.protocol import TOO_OLD, Problem, left_out, unavailable
from services.gateway.streams.feed import StreamFeed

if TYPE_CHECKING:
    from services.gateway.clients.session import Session

log = structlog.get_logger(__name__)

_RETRY_FIRST_S = 0.1
_RETRY_MOST_S = 2.0
_EMPTY_READS = 5
# Pages that are read for one client at a time.
_READS = 4


@dataclass(slots=True, eq=False)
class CatchUp:
    """The subscriptions of one client that are not live."""

    _client: Session
    _hub: Hub
    _backfill: Backfill
    _metrics: Metrics
    _waiting: dict[Subscription, StreamFeed] = field(default_factory=dict)
    _running: bool = False
    # Made by `run`: most clients never catch up on anything.
    _wake: asyncio.Event | None = None
    _reads: asyncio.Semaphore | None = None

    def close(self) -> None:
        """Let go of the client, which is gone."""
        self._waiting.clear()
        del self._client

    def begin(self, subscription: Subscription, feed: StreamFeed, catching: Catching) -> None:
        """Bring it to the head from where it stands."""
        self._hub.catch_up(subscription, catching)
        self.go_on(subscription, feed)

    def go_on(self, subscription: Subscription, feed: StreamFeed) -> None:
        """Bring to the head what catches up already, by the hub's word."""
        self._waiting[subscription] = feed
        if self._wake is not None:
            self._wake.set()
        if not self._running:
            self._running = True
            self._client.start_catching_up(self.run)

    def remove(self, subscription: Subscription) -> None:
        """It catches up no more."""
        if self._waiting.pop(subscription, None) is not None and self._wake is not None:
            self._wake.set()

    async def run(self) -> None:
        """Serve all that wait in turns, until none is left."""
        self._wake = asyncio.Event()
        self._reads = asyncio.Semaphore(_READS)
        try:
            while self._waiting:
                async with asyncio.TaskGroup() as group:
                    await self._serve(group, self._wake)
        finally:
            self._running = False
            self._wake = self._reads = None

    async def _serve(self, group: asyncio.TaskGroup, wake: asyncio.Event) -> None:
        fetching: dict[Catching, tuple[Subscription, asyncio.Task[None]]] = {}
        while self._waiting:
            wake.clear()
            for subscription, feed in list(self._waiting.items()):
                catching = subscription.catching
                if catching is None:
                    # It went another way meanwhile.
                    self._waiting.pop(subscription, None)
                elif not catching.reading:
                    await self._client.room()
                    if subscription.catching is catching and not await self._step(
                        subscription, catching, feed
                    ):
                        catching.reading = True
                        work = self._fetch(subscription, catching, feed)
                        task = group.create_task(work, name=f"fetch:{feed.key}")
                        fetching[catching] = (subscription, task)
            for catching, (subscription, task) in list(fetching.items()):
                if task.done():
                    del fetching[catching]
                elif subscription.catching is not catching:
                    # Nobody wants any more what it waits for.
                    task.cancel()
            if self._waiting and self._all_fetch():
                await wake.wait()
        for _, task in fetching.values():
            task.cancel()

    def _all_fetch(self) -> bool:
        return all(one.catching is not None and one.catching.reading for one in self._waiting)

    # ------------------------------------------------------------------ one piece at a time

    async def _step(self, subscription: Subscription, catching: Catching, feed: StreamFeed) -> bool:
        """Hand out a piece; False when what comes next has to be fetched."""
        async with self._backfill.turn:
            if subscription.catching is not catching:
                return True
            if not self._give_next(subscription, catching, feed):
                return False
            # However many clients catch up, one piece is handed out in a turn of the event
            # loop, so that what is live waits for one at most.
            await asyncio.sleep(0)
            return True

    def _give_next(self, subscription: Subscription, catching: Catching, feed: StreamFeed) -> bool:
        replica = feed.replica
        if catching.preface:
            self._put(catching.preface.popleft())
            return True
        merged = subscription.terms.mode == "latest" and catching.reason == "slow"
        if merged and feed.ready.is_set() and replica.stateful:
            # A merged stream needs no past, only the state now.
            self._arrive(subscription, catching, feed, anew=True)
            return True
        if catching.page:
            piece = catching.give(catching.page, subscription.terms.view)
            self._hand_out(subscription, catching, feed, piece)
            return True
        if catching.position >= (replica.mark or BEGINNING):
            if feed.ready.is_set():
                self._arrive(subscription, catching, feed, anew=False)
            return feed.ready.is_set()
        if not replica.window.covers(catching.position):
            return False
        run = replica.window.run_after(catching.position)
        if run is None:
            return False
        piece = catching.give_run(run, subscription.terms.view)
        self._hand_out(subscription, catching, feed, piece)
        return True

    def _hand_out(
        self, subscription: Subscription, catching: Catching, feed: StreamFeed, piece: Piece
    ) -> None:
        self._put(piece.frames)
        subscription.live_stream.metrics.backfill_ticks.inc(piece.records)
        if not piece.whole:
            self._lost(subscription, catching, feed)

    async def _fetch(
        self, subscription: Subscription, catching: Catching, feed: StreamFeed
    ) -> None:
        try:
            if catching.position >= (feed.replica.mark or BEGINNING):
                await feed.ready.wait()
            else:
                await self._read(subscription, catching, feed)
        finally:
            catching.reading = False
            if self._wake is not None:
                self._wake.set()

    async def _read(self, subscription: Subscription, catching: Catching, feed: StreamFeed) -> None:
        backoff = Backoff(_RETRY_FIRST_S, _RETRY_MOST_S)
        empty = 0
        assert self._reads is not None
        while subscription.catching is catching:
            try:
                async with self._reads:
                    page, cursor = await self._page(catching, feed)
            except PositionLost:
                catching.cursor = ""
                empty += 1
            except (BrokerError, StoreUnavailable) as error:
                log.warning("backfill_waits", stream=str(feed.key), reason=str(error))
            else:
                if subscription.catching is not catching:
                    return
                catching.set_page(page, cursor)
                if page:
                    return
                # The log's head, though the replica has more: a copy of the log that lags, or the
                # log was lost meanwhile.
                empty += 1
            if empty > _EMPTY_READS:
                self._lost(subscription, catching, feed)
                return
            await asyncio.sleep(backoff.next_delay())

    async def _page(self, catching: Catching, feed: StreamFeed) -> tuple[deque[StreamRecord], str]:
        """What follows in the log, or in the archive where the log begins later."""
        position = catching.position
        page, cursor = await self._backfill.read(feed, position, catching.cursor)
        if linked := catching.linked(page):
            return deque(linked), cursor if len(linked) == len(page) else ""
        now_us = time.time_ns() // 1000 if catching.reason == "slow" else None
        archived = catching.linked(await self._backfill.archived(feed, position, now_us))
        if archived or not page:
            return deque(archived), "" if archived else cursor
        # Neither follows. A log that lost its end may hold other records in places that were good.
        page, cursor = await self._backfill.read_anew(feed, position)
        linked = catching.linked(page)
        return deque(linked) or page, cursor if len(linked) == len(page) else ""

    def _put(self, frames: bytes) -> None:
        if frames:
            self._client.outbox.put(frames)
            self._hub.touch(self._client)

    def _arrive(
        self, subscription: Subscription, catching: Catching, feed: StreamFeed, *, anew: bool
    ) -> None:
        head = feed.replica.head
        if not anew and head is not None and catching.seq not in (None, head.seq):
            self._lost(subscription, catching, feed)
            return
        self._end(subscription, catching, catching.warning)
        if anew:
            if (status := feed.status()) is not None:
                self._client.tell(status)
            self.go_live(subscription, feed, "catch_up")
        else:
            self._waiting.pop(subscription, None)
            self._hub.attach(subscription, head)
        if (news := feed.news(time.monotonic() - catching.since)) is not None:
            self._client.tell(news)
        if catching.reason == "slow":
            self._metrics.slow.labels("recovered").inc()
            to = subscription.terms.mode
            self._client.tell(mode_message(feed.key, "catch_up", to, "recovered", catching.count))

    def _end(
        self,
        subscription: Subscription,
        catching: Catching,
        warning: Mapping[str, Any] | None,
    ) -> None:
        if catching.reason != "backfill":
            return
        seconds = time.monotonic() - catching.since
        subscription.live_stream.metrics.backfill_seconds.observe(seconds)
        key, place = subscription.live_stream.key, (catching.asked, catching.seq)
        self._client.tell(backfill_message(key, "end", *place, catching.count, warning))

    def _lost(self, subscription: Subscription, catching: Catching, feed: StreamFeed) -> None:
        """The log does not hold what this client needs next: say what it misses, begin anew."""
        head = feed.replica.head
        oldest = head.seq if head is not None else None
        self._end(subscription, catching, left_out("expired", oldest))
        if catching.reason == "backfill" and subscription.terms.on_unrecoverable == "error":
            message = "what follows the last record sent expired before it could be read"
            self._client.subscriptions.end_with(
                Problem(TOO_OLD, message, oldest_seq=oldest), subscription
            )
            return
        if head is not None:
            self._client.tell(_announced_loss(feed, catching.seq))
        self._metrics.slow.labels("lost").inc()
        self.go_live(subscription, feed, "catch_up")

    # ------------------------------------------------------------------ with a snapshot

    def go_live(
        self,
        subscription: Subscription,
        feed: StreamFeed,
        reason: SnapshotReason,
        *,
        with_snapshot: bool = True,
    ) -> None:
        """Send the state and everything after it; at once where there is room for it."""
        self._waiting.pop(subscription, None)
        self._hub.rest(subscription)
        replica = feed.replica
        head = replica.head
        if head is None or not with_snapshot:
            self._hub.attach(subscription, head)
            return
        parts = feed.snapshot_parts(reason, subscription.terms.view.depth)
        if parts is None:
            self._client.subscriptions.end_with(unavailable(NO_STATE), subscription)
            return
        outbox = self._client.outbox
        size = sum(map(len, parts))
        if not outbox.data or outbox.size + size <= outbox.limit:
            for part in parts:
                self._put(part)
            self._hub.attach(subscription, head)
            return
        position = replica.mark or BEGINNING
        now = time.monotonic()
        self.begin(subscription, feed, Catching("snapshot", position, head.seq, now, deque(parts)))


NO_STATE = "the stream's whole state is not known here yet"


def mode_message(key: StreamKey, old: str, new: str, reason: str, lag: int) -> dict[str, Any]:
    """How the stream is sent from now on."""
    how = {"from": old, "to": new, "reason": reason, "lag": lag}
    return {"type": "mode", "stream": str(key), **stream_fields(key), **how}


def backfill_message(
    key: StreamKey,
    state: str,
    first: int,
    last: int | None,
    count: int | None,
    warning: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """A backfill begins or has ended; it is complete unless `warning` says what is left out."""
    what: dict[str, Any] = {"from": first, "to": last, "count": count, "complete": warning is None}
    if warning is not None:
        what["warning"] = dict(warning)
    return {"type": "backfill", "state": state, "stream": str(key), **stream_fields(key), **what}


def _announced_loss(feed: StreamFeed, held: int | None) -> bytes:
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
