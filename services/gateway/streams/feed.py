"""One stream inside the gateway: its replica and its fetching.

A feed gives its replica what it wants: live records as they come, and where they do not follow, a
stored state or pages of the log, one fetch at a time. What the replica proves goes to the hub.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import structlog

from services.common.clock import now_us
from services.common.errors import BrokerError, PositionLost
from services.common.resilience import Backoff
from services.common.sharding import shard_of
from services.common.stream import Broker, Position
from services.common.stream.worker import Bell
from services.common.subjects import StreamKey, tick_subject
from services.common.wire import RECORD_VERSION, Snapshot, Status, encode
from services.gateway.chain.freshness import Age, Pulses
from services.gateway.chain.replica import Phase, Replica, WantBase
from services.gateway.chain.stream_condition import GatewayStatus, StreamCondition
from services.gateway.chain.stream_record import (
    SnapshotReason,
    StreamRecord,
    snapshot_at,
    snapshot_messages,
)
from services.gateway.chain.window import Budget, Window
from services.gateway.fanout.hub import Hub
from services.gateway.fanout.live_streams import LiveStream
from services.gateway.fanout.subscription import BEGINNING
from services.gateway.metrics import Metrics
from services.gateway.settings import GatewaySettings
from services.gateway.streams.record_reader import RecordReader
from services.gateway.streams.state_store import StateStore
from services.gateway.websocket.rfc6455.frames import text_frame

log = structlog.get_logger(__name__)

_PAGE = 500
_RETRY_FIRST_S = 0.05
_RETRY_MOST_S = 2.0
# How far back, in records of the log, a stream's last status is looked for.
_STATUS_PAGE = 500
_STATUS_STEPS = (1 << 6, 1 << 12, 1 << 20, 1 << 30)


@dataclass(frozen=True, slots=True)
class FeedSources:
    """Where records and states come from."""

    broker: Broker
    settings: GatewaySettings
    stores: StateStore
    records: RecordReader
    metrics: Metrics
    pulses: Pulses = field(default_factory=Pulses)  # of all shards that are followed
    micros: Callable[[], int] = now_us  # the time of day, microseconds


class StreamFeed:
    """One stream inside the gateway: its replica, its live clients, its fetching.

    Args:
        joined: set while live records are received.
    """

    def __init__(
        self, key: StreamKey, sources: FeedSources, hub: Hub, budget: Budget, joined: asyncio.Event
    ) -> None:
        self.key = key
        self.shard = shard_of(key.product, sources.settings.shard_count)
        self.subject = tick_subject(self.shard, key)
        self.live_stream = LiveStream(key, sources.metrics.of_stream(key))
        self.replica = Replica(key, Window(budget, sources.settings.window_bytes))
        # What subscribers are told of the stream's state.
        self.condition = StreamCondition(
            key,
            self.shard,
            self.replica,
            Age(sources.settings.stale_after_ms * 1000, sources.micros()),
        )
        self.ready = asyncio.Event()  # set while the chain has a position to begin from
        self.wanted = asyncio.Event()
        self.moved = Bell()  # rings when the chain went on
        self.interest = 0  # how many hold it; at zero it lingers and is then dropped
        self.idle_since = 0.0
        self._joined = joined
        self._sources = sources
        self._hub = hub
        self._published: Position | None = None
        self._generation = 0
        # The newest status of the log that subscribers were told.
        self._told: StreamRecord | None = None
        # Snapshots at `_cached_at`, framed, by reason and depth.
        self._cache: dict[tuple[str, int], list[bytes]] = {}
        self._cached_at: Position | None = None

    # ------------------------------------------------------------------ what clients are given

    def snapshot_parts(self, reason: SnapshotReason, depth: int) -> list[bytes] | None:
        """The frames of a snapshot at the chain's head; None when there is no whole state."""
        position = self.replica.head
        if position is None or not self.replica.stateful:
            return None
        if self._cached_at != position:
            self._cache = {}
            self._cached_at = position
        cached = self._cache.get((reason, depth))
        if cached is None:
            if len(self._cache) >= self._sources.settings.snapshots_kept:
                # A depth is any number that a client chooses; the oldest goes.
                del self._cache[next(iter(self._cache))]
                self._sources.metrics.snapshots_let_go.inc()
            # Many clients subscribe at the same position; it is encoded and framed for the first.
            snapshot = self.snapshot(depth)
            assert snapshot is not None
            messages = snapshot_messages(snapshot, reason, depth)
            cached = self._cache[reason, depth] = list(map(text_frame, messages))
        return cached

    def snapshot(self, depth: int) -> Snapshot | None:
        """The state now, a book's best `depth` levels a side (0: all); None: it is not whole."""
        found = self.replica.state(depth or None)
        if found is None:
            return None
        position, state = found
        return snapshot_at(self.key, self.shard, position, now_us(), state)

    # ------------------------------------------------------------------ live records

    def on_live(self, records: list[StreamRecord]) -> None:
        """The tail brought these."""
        was_live = self.replica.phase is Phase.LIVE
        self.replica.on_live(records)
        self._after(was_live, "chain")

    def on_interrupted(self) -> None:
        """The tail may have missed something."""
        was_live = self.replica.phase is Phase.LIVE
        self.replica.on_interrupted()
        self._after(was_live, "interrupted")

    def on_broken(self) -> None:
        """Nothing live comes any more, until `joined`: what is held may be old by now."""
        self.ready.clear()
        self.on_interrupted()

    def on_failure(self) -> None:
        """Something here went wrong that nobody foresaw: this stream, and no other, begins anew."""
        self._sources.metrics.stream_failures.inc()
        self.ready.clear()
        self.replica.on_failure()
        self.wanted.set()

    def _after(self, was_live: bool, cause: str) -> None:
        self._publish()
        if self.replica.phase is not Phase.LIVE:
            if was_live:
                self._sources.metrics.gap(self.key, cause)
            self.wanted.set()

    def _publish(self) -> None:
        replica = self.replica
        proven = replica.drain()
        if replica.generation != self._generation:
            # Where nothing that can be read came after the break yet, there is no state to give.
            if replica.phase is Phase.LIVE and replica.head is not None:
                self._generation = replica.generation
                self._published = replica.mark
                self._rebase()
            return
        if proven:
            self.moved.ring()
            before, self._published = self._published, replica.mark
            if self.live_stream.full or self.live_stream.conflated:
                self._hub.publish(self.live_stream, proven, before or BEGINNING)
            if replica.status is not self._told:
                self._told = replica.status
                self._say(self.condition.passed_on(self._sources.micros()))

    def judge(self) -> None:
        """Look at how old what is served is, and tell subscribers of a change."""
        pulse = self._sources.pulses.of(self.key.venue, self.key.product)
        self._say(self.condition.judge(pulse, self._sources.micros()))

    @property
    def age(self) -> int:
        """How old what is served is now, microseconds."""
        return max(0, self._sources.micros() - self.condition.age.heard)

    def status(self) -> bytes | None:
        """What a subscriber who comes now is told of the stream's state, if anything is known."""
        self.judge()
        return self.condition.current(self._sources.micros())

    def news(self, ago_s: float) -> bytes | None:
        """What a subscriber has to be told that was not live for so long, if anything."""
        now = self._sources.micros()
        return self.condition.news(now - int(ago_s * 1e6), now)

    def _say(self, word: GatewayStatus | None) -> None:
        if word is not None:
            self._hub.publish(self.live_stream, [word], self._published)

    def _rebase(self) -> None:
        self.ready.set()
        log.warning("chain_restarted", stream=str(self.key), head=self.replica.head)
        self._hub.rebase(self.live_stream)

    # ------------------------------------------------------------------ fetching

    async def run(self) -> None:
        """Fetch whenever the replica wants something; ends by cancellation."""
        while True:
            await self._joined.wait()
            await self._fill()
            if not self._joined.is_set():
                # What came meanwhile may have been missed.
                continue
            self.ready.set()
            await self._find_status()
            await self.wanted.wait()
            self.wanted.clear()

    async def _fill(self) -> None:
        backoff = Backoff(_RETRY_FIRST_S, _RETRY_MOST_S)
        generation = self.replica.generation
        while (want := self.replica.want()) is not None:
            if self.replica.generation != generation:
                generation = self.replica.generation
                self.ready.clear()
            try:
                if isinstance(want, WantBase):
                    await self._load_base()
                    continue
                cursor = want.cursor
                if not cursor and want.after is not None:
                    cursor = await self._sources.broker.seek(self.subject, want.after)
                page = await self._sources.broker.read(self.subject, cursor, limit=_PAGE)
            except PositionLost:
                self.replica.on_lost()
            except BrokerError as error:
                log.warning("log_read_failed", stream=str(self.key), reason=str(error))
            else:
                records = self._sources.records.read(page.messages)
                went_on = self.replica.on_page(records, page.cursor, at_head=page.at_head)
                self._publish()
                if went_on:
                    backoff.reset()
                    continue
            await asyncio.sleep(backoff.next_delay())

    async def _load_base(self) -> None:
        base = await self._sources.stores.base(self.key, self.shard)
        if base is None:
            self.replica.on_base(None)
        else:
            self.replica.on_base(base.position, base.cursor, base.state)

    async def _find_status(self) -> None:
        """Look for the last status before the place where the chain was begun.

        Statuses are written on a change only. Where none stands among the newest records, none of
        them changed anything: the records themselves say that the stream is live, or was.
        """
        head = self.replica.head
        if self.replica.status is not None or head is None:
            return
        seen: list[StreamRecord] = []
        with suppress(BrokerError):
            for step in _STATUS_STEPS:
                after = Position(head.epoch, max(0, head.seq - step))
                cursor = await self._sources.broker.seek(self.subject, after)
                page = await self._sources.broker.read(self.subject, cursor, limit=_STATUS_PAGE)
                if not page.at_head:
                    break
                seen = self._sources.records.read(page.messages)
                found = [record for record in seen if record.kind == "status"]
                if found:
                    self._learn(found[-1])
                    return
        if seen:
            self._learn(self._inferred(seen))

    def _learn(self, status: StreamRecord) -> None:
        if self.replica.learn_status(status):
            self._told = status
            self._hub.publish(self.live_stream, [status], self._published)
            self._say(self.condition.passed_on(self._sources.micros()))

    def _inferred(self, seen: list[StreamRecord]) -> StreamRecord:
        newest = seen[-1]
        status = Status(
            RECORD_VERSION,
            *self.key,
            self.shard,
            epoch=newest.position.epoch,
            seq=newest.position.seq,
            sub=0,
            state="live",
            since=seen[0].ts_ingest,
            evidence=f"no change of state among the newest {len(seen)} records",
            ts_ingest=newest.ts_ingest,
        )
        return StreamRecord(encode(status))
