"""Who wants what: the live push, from proven records to clients' outboxes.

A record is framed once and the same bytes go to every client that is live on its stream. Outboxes
are written at the end of the event loop's turn, so that all of a turn shares one write per client.
Nothing here awaits; the event loop is behind `schedule` and `schedule_at`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from typing import Literal

from opentelemetry.trace import SpanKind

from services.common import tracing
from services.common.stream import Position
from services.common.subjects import StreamKey
from services.common.tracing import exemplar_of
from services.gateway.conflation import Conflation
from services.gateway.frames import text_frame, text_frames
from services.gateway.metrics import METRICS
from services.gateway.outbox import Outbox
from services.gateway.ratelimit import TokenBucket
from services.gateway.records import Entry

Mode = Literal["full", "latest"]
BEGINNING = Position(0, 0)
# Messages in a row that merged nothing, after which a quota no longer needs conflation.
_CALM = 10


class Client(ABC):
    """The hub's view of a connection."""

    outbox: Outbox

    @abstractmethod
    def flush(self) -> None:
        """Write what the outbox holds, as far as the transport takes it."""

    @property
    @abstractmethod
    def writable(self) -> bool:
        """Whether what is written now goes to the kernel rather than waiting here."""

    @abstractmethod
    def fell_behind(self, subscription: Subscription, records: int) -> None:
        """It was taken off the live push, its outbox being full; it has `records` to catch up."""

    @abstractmethod
    def rebased(self, subscription: Subscription) -> None:
        """The stream's chain could not go on from before: it needs the state anew."""

    @abstractmethod
    def over_quota(self, subscription: Subscription) -> None:
        """It gets more than its share of messages; it is conflated from now on."""

    @abstractmethod
    def within_quota(self, subscription: Subscription) -> None:
        """It gets every record again."""


class Subscription:
    """One client's interest in one stream.

    Attributes:
        mode: what the client asked for; `conflation` is set while messages are merged.
        position: while catching up, the last record put into the outbox.
        seq: while catching up, the chain's seq the client will hold then.
    """

    __slots__ = (
        "client",
        "conflation",
        "count",
        "cursor",
        "depth",
        "fan",
        "live",
        "max_rate",
        "mode",
        "on_unrecoverable",
        "outbox",
        "page",
        "position",
        "preface",
        "quota",
        "reason",
        "seq",
        "since",
        "start",
    )

    def __init__(self, client: Client, fan: Fan) -> None:
        self.client = client
        self.outbox = client.outbox
        self.fan = fan
        self.depth = 0
        self.mode: Mode = "full"
        self.max_rate: float | None = None
        self.on_unrecoverable: Literal["snapshot", "error"] = "snapshot"
        self.live = False
        self.conflation: Conflation | None = None
        self.quota: TokenBucket | None = None
        # Catching up.
        self.reason: Literal["backfill", "slow", "snapshot"] = "snapshot"
        self.position = BEGINNING
        self.seq: int | None = None
        self.start = 0
        self.count = 0
        self.since = 0.0
        self.cursor = ""
        self.page: deque[Entry] = deque()
        self.preface: deque[bytes] = deque()


class Fan:
    """The live clients of one stream: in `full` mode by depth, and those that are conflated."""

    __slots__ = ("conflated", "end_to_end", "full", "key", "labels", "sent")

    def __init__(self, key: StreamKey) -> None:
        self.key = key
        self.full: dict[int, dict[Subscription, None]] = {}
        self.conflated: dict[Subscription, None] = {}
        self.labels = (key.venue, key.channel)
        # Looked up once: `labels` takes a lock and builds a key each time.
        self.sent = METRICS.sent.labels(*self.labels)
        self.end_to_end = METRICS.end_to_end.labels(*self.labels)

    def subscriptions(self) -> list[Subscription]:
        """Those that are live now, in any mode."""
        return [*self.conflated, *(one for group in self.full.values() for one in group)]


class Hub:
    """Fans out. One per process.

    Args:
        schedule: calls back at the end of the event loop's turn.
        schedule_at: calls back at a time of `clock`.
        clock: seconds, does not go back.
        micros: the time of day in microseconds, to compare with `ts_ingest`.
        product_rate: messages a second of one stream to one connection; 0 is unlimited.
    """

    def __init__(
        self,
        schedule: Callable[[Callable[[], None]], object],
        schedule_at: Callable[[float, Callable[[], None]], object],
        clock: Callable[[], float],
        micros: Callable[[], int],
        product_rate: float = 0,
    ) -> None:
        self._schedule = schedule
        self._schedule_at = schedule_at
        self._clock = clock
        self._micros = micros
        self._product_rate = product_rate
        self._dirty: list[Client] = []
        self._flushing = False
        self._owing: dict[Subscription, None] = {}
        self._timer: float | None = None
        # Newest records of streams since the last flush: how long ago were they received?
        self._ingested: list[tuple[Fan, Entry]] = []
        self._traced: list[tuple[Fan, Entry]] = []

    def attach(self, subscription: Subscription, held: int | None) -> None:
        """Give it every record from now on; `held` is the seq its client has by then."""
        fan = subscription.fan
        subscription.live = True
        if subscription.mode == "latest":
            subscription.conflation = Conflation(held, subscription.max_rate)
            fan.conflated[subscription] = None
        else:
            subscription.conflation = None
            fan.full.setdefault(subscription.depth, {})[subscription] = None
            if self._product_rate and subscription.quota is None:
                burst = max(1.0, self._product_rate)
                subscription.quota = TokenBucket(self._product_rate, burst, self._clock())

    def detach(self, subscription: Subscription) -> None:
        """Give it nothing any more; what is in its outbox stays."""
        fan = subscription.fan
        subscription.live = False
        subscription.conflation = None
        self._owing.pop(subscription, None)
        fan.conflated.pop(subscription, None)
        group = fan.full.get(subscription.depth)
        if group is not None:
            group.pop(subscription, None)
            if not group:
                del fan.full[subscription.depth]

    def conflate(self, subscription: Subscription, held: int | None, max_rate: float) -> None:
        """Merge a `full` client's messages from now on."""
        self.detach(subscription)
        subscription.live = True
        subscription.conflation = Conflation(held, max_rate)
        subscription.fan.conflated[subscription] = None

    def settle(self, subscription: Subscription) -> None:
        """Send what a conflated client is owed now, whatever its rate."""
        if subscription.conflation is not None:
            self._send_owed(subscription)
            self._want_flush()

    def publish(self, fan: Fan, entries: Sequence[Entry], before: Position | None) -> None:
        """Push records that directly follow `before` to everyone who is live on the stream."""
        behind: list[Subscription] = []
        dirty = self._dirty
        for depth, group in list(fan.full.items()):
            messages = [message for entry in entries for message in entry.messages(depth)]
            frames = text_frames(messages)
            size = len(frames)
            if self._product_rate:
                self._charge(group, len(messages), before)
            for subscription in group:
                outbox = subscription.outbox
                if outbox.size + size > outbox.limit:
                    behind.append(subscription)
                    continue
                outbox.data.append(frames)
                outbox.size += size
                if not outbox.dirty:
                    outbox.dirty = True
                    dirty.append(subscription.client)
            fan.sent.inc(len(messages) * (len(group) - len(behind)))
        for subscription in fan.conflated:
            self._conflate(subscription, entries, behind)
        for subscription in behind:
            self.detach(subscription)
            subscription.position = before or BEGINNING
            subscription.client.fell_behind(subscription, len(entries))
        if entries and (fan.full or fan.conflated):
            self._ingested.append((fan, entries[-1]))
            if tracing.ACTIVE is not None:
                self._traced += [(fan, entry) for entry in entries if entry.trace is not None]
        self._want_flush()

    def touch(self, client: Client) -> None:
        """Something was put into this client's outbox: write it at the end of the turn."""
        if not client.outbox.dirty:
            client.outbox.dirty = True
            self._dirty.append(client)
        self._want_flush()

    def flush(self) -> None:
        """Write everything; called by `schedule` and `schedule_at`."""
        self._flushing = False
        if self._owing:
            self._settle()
        dirty, self._dirty = self._dirty, []
        for client in dirty:
            client.outbox.dirty = False
            client.flush()
        if self._ingested:
            now = self._micros()
            traces = self._end_traces() if self._traced else {}
            for fan, entry in self._ingested:
                if entry.ts_ingest:
                    fan.end_to_end.observe(
                        max(0, now - entry.ts_ingest) / 1e6, traces.get(fan) if traces else None
                    )
            self._ingested.clear()

    def _end_traces(self) -> dict[Fan, dict[str, str]]:
        """Tell of traced records that were written; an exemplar for each of their streams."""
        exemplars: dict[Fan, dict[str, str]] = {}
        for fan, entry in self._traced:
            if tracing.ACTIVE is None or entry.trace is None:
                continue
            came, headers = entry.trace
            span = tracing.ACTIVE.begin(
                "fan out",
                fan.key,
                entry.position.seq,
                parent=headers,
                kind=SpanKind.CONSUMER,
                start_us=came,
            )
            span.set_attribute("clients", len(fan.subscriptions()))
            span.end()
            exemplars[fan] = exemplar_of(span)
        self._traced.clear()
        return exemplars

    def _want_flush(self) -> None:
        if not self._flushing and (self._dirty or self._owing):
            self._flushing = True
            self._schedule(self.flush)

    def _charge(
        self, group: dict[Subscription, None], messages: int, before: Position | None
    ) -> None:
        now = self._clock()
        over = [one for one in group if one.quota and one.quota.take(now, messages) > 0]
        held = before.seq if before is not None and before != BEGINNING else None
        for subscription in over:
            self.conflate(subscription, held, self._product_rate)
            subscription.client.over_quota(subscription)

    def _conflate(
        self, subscription: Subscription, entries: Sequence[Entry], behind: list[Subscription]
    ) -> None:
        conflation = subscription.conflation
        if conflation is None:
            return
        for entry in entries:
            if entry.kind == "tick":
                conflation.offer(entry)
                self._owing[subscription] = None
                continue
            if entry.chained:
                # The reset's own link has to hold: what is owed goes out before it.
                self._send_owed(subscription)
                conflation.held = entry.position.seq
            if not subscription.outbox.offer(text_frames(entry.messages(subscription.depth))):
                behind.append(subscription)
                return
            self.touch(subscription.client)

    def _settle(self) -> None:
        """Send what conflated clients are owed, where it is due and the client takes it."""
        now = self._clock()
        next_due: float | None = None
        for subscription in list(self._owing):
            conflation = subscription.conflation
            if conflation is None or not conflation.owing:
                del self._owing[subscription]
            elif conflation.due > now:
                next_due = conflation.due if next_due is None else min(next_due, conflation.due)
            elif subscription.client.writable:
                del self._owing[subscription]
                self._send_owed(subscription)
                if subscription.mode == "full" and conflation.singles >= _CALM:
                    # It was stepped down for its rate, which is within the quota again.
                    self.detach(subscription)
                    self.attach(subscription, conflation.held)
                    subscription.client.within_quota(subscription)
        if next_due is not None and (self._timer is None or next_due < self._timer):
            self._timer = next_due
            self._schedule_at(next_due, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self.flush()

    def drained(self, client: Client) -> None:
        """Its transport takes data again: send what conflation held back."""
        if self._owing:
            self._want_flush()
        self.touch(client)

    def _send_owed(self, subscription: Subscription) -> None:
        assert subscription.conflation is not None
        owed = subscription.conflation.take(self._clock())
        if owed is None:
            return
        message, merged = owed
        subscription.outbox.put(text_frame(message))
        subscription.fan.sent.inc()
        METRICS.conflated.labels(*subscription.fan.labels).inc(merged - 1)
        if not subscription.outbox.dirty:
            subscription.outbox.dirty = True
            self._dirty.append(subscription.client)
