"""Following the tick logs: one live reader per shard with interest, one feed per stream.

Both are tasks that end by cancellation only: whatever a reader or a feed meets, even that its part
of the broker was closed by somebody else, is said, and it begins again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from services.common.errors import BrokerError, BrokerUnavailable
from services.common.observability.health import Health
from services.common.resilience import Backoff
from services.common.sharding import shard_of
from services.common.stream import LiveSubscription, Message
from services.common.subjects import StreamKey, is_pulse, tick_log
from services.common.wire import UNREADABLE, decode_pulse
from services.gateway.chain.window import Budget
from services.gateway.fanout.hub import Hub
from services.gateway.streams.feed import FeedSources, StreamFeed

log = structlog.get_logger(__name__)

_RETRY_FIRST_S = 0.05
_RETRY_MOST_S = 2.0


class StreamLease:
    """One holder's interest in a stream: it is followed until the last of them is released."""

    __slots__ = ("_released", "feed")

    def __init__(self, feed: StreamFeed) -> None:
        self.feed = feed
        self._released = False
        feed.interest += 1

    def release(self) -> None:
        """Give it back; again has no effect, so that nobody can give back another's."""
        if not self._released:
            self._released = True
            self.feed.interest -= 1
            self.feed.idle_since = time.monotonic()


class StreamRegistry:
    """All feeds, and the shard readers they need. Enter it for as long as the service runs."""

    def __init__(self, sources: FeedSources, hub: Hub, health: Health) -> None:
        self._sources = sources
        self._health = health
        self._hub = hub
        self._budget = Budget(sources.settings.window_total_bytes)
        self._linger_s = sources.settings.stream_linger_s
        self._group: asyncio.TaskGroup | None = None
        self._feeds: dict[StreamKey, StreamFeed] = {}
        self._tasks: dict[StreamKey, asyncio.Task[None]] = {}
        self._shards: dict[int, _Shard] = {}

    @property
    def feeds(self) -> dict[StreamKey, StreamFeed]:
        """What is followed now."""
        return self._feeds

    async def run(self) -> None:
        """Drop feeds that nobody wants any more, until cancelled."""
        while True:
            await asyncio.sleep(min(5.0, max(0.05, self._linger_s / 2)))
            self._sweep(time.monotonic())

    def start(self, group: asyncio.TaskGroup) -> None:
        """Let tasks live in `group` from now on."""
        self._group = group

    def stop(self) -> None:
        """End all readers."""
        for key in list(self._feeds):
            self._drop(key)

    @contextmanager
    def leased(self, key: StreamKey) -> Iterator[StreamFeed]:
        """The stream's feed, kept for as long as the block runs."""
        lease = self.acquire(key)
        try:
            yield lease.feed
        finally:
            lease.release()

    def acquire(self, key: StreamKey) -> StreamLease:
        """Keep the stream followed; await its feed's `ready` before using the replica."""
        feed = self._feeds.get(key)
        if feed is None:
            assert self._group is not None, "streams are followed before the registry is started"
            number = shard_of(key.product, self._sources.settings.shard_count)
            shard = self._shards.get(number)
            if shard is None:
                shard = self._shards[number] = _Shard(number, self._sources, self._health)
                shard.task = self._group.create_task(shard.run(), name=f"tail:{number}")
            feed = StreamFeed(key, self._sources, self._hub, self._budget, shard.joined)
            self._feeds[key] = shard.feeds[feed.subject] = feed
            self._tasks[key] = self._group.create_task(_follow(feed), name=f"feed:{key}")
        return StreamLease(feed)

    def judge(self) -> dict[int, int]:
        """Tell the streams' subscribers what became stale, or no longer is.

        Answers the greatest age in each shard that is followed, µs.
        """
        oldest: dict[int, int] = {}
        for feed in self._feeds.values():
            feed.judge()
            oldest[feed.shard] = max(feed.age, oldest.get(feed.shard, 0))
        return oldest

    def _sweep(self, now: float) -> None:
        for key, feed in list(self._feeds.items()):
            if feed.interest <= 0 and now - feed.idle_since >= self._linger_s:
                self._drop(key)

    def _drop(self, key: StreamKey) -> None:
        feed = self._feeds.pop(key)
        self._tasks.pop(key).cancel()
        feed.replica.window.close()
        shard = self._shards[feed.shard]
        shard.feeds.pop(feed.subject, None)
        if not shard.feeds:
            del self._shards[feed.shard]
            if shard.task is not None:
                shard.task.cancel()
                # It keeps the error, which holds the shard.
                shard.task = None
            self._health.forgotten(shard.check)


async def _follow(feed: StreamFeed) -> None:
    backoff = Backoff(_RETRY_FIRST_S, _RETRY_MOST_S)
    while True:
        try:
            await feed.run()
        except Exception:  # whatever it was: it costs this stream its state, no other one
            log.exception("stream_failed", stream=str(feed.key))
            feed.on_failure()
            await asyncio.sleep(backoff.next_delay())


class _Shard:
    """The live reader of one tick log."""

    def __init__(self, number: int, sources: FeedSources, health: Health) -> None:
        self.number = number
        self.check = f"shard-{number}"
        self.feeds: dict[str, StreamFeed] = {}
        # Set while it receives; a feed fetches only then, so that nothing falls between the log's
        # end and what is live.
        self.joined = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self._sources = sources
        self._health = health
        self._backoff = Backoff(_RETRY_FIRST_S, _RETRY_MOST_S)
        # Pulses of the time before were looked for.
        self._began = False

    async def run(self) -> None:
        """Receive, with one reader after the other, until cancelled."""
        while True:
            try:
                reader = await self._sources.broker.live(tick_log(self.number))
                try:
                    if not self._began:
                        await self._find_pulses()
                    self._begin()
                    await self._receive(reader)
                finally:
                    await reader.aclose()
            except BrokerError as error:
                self._broke(str(error))
            except Exception as error:  # whatever it was: another reader is opened
                log.exception("tail_failed", shard=self.number)
                self._broke(repr(error))
            await asyncio.sleep(self._backoff.next_delay())

    def _begin(self) -> None:
        self._began = True
        for feed in list(self.feeds.values()):
            # What came since the reader before is in the log only.
            feed.on_interrupted()
        self.joined.set()
        self._health.passed(self.check)

    def _broke(self, reason: str) -> None:
        log.warning("tail_broke", shard=self.number, reason=reason)
        self._health.failed(self.check, f"no live reader: {reason}")
        if self.joined.is_set():
            self._sources.metrics.reader_breaks.labels(str(self.number)).inc()
            self.joined.clear()
            for feed in list(self.feeds.values()):
                feed.on_broken()

    async def _find_pulses(self) -> None:
        """Take the newest ones that the log holds: those who wrote them may stand still by now."""
        broker = self._sources.broker
        try:
            for subject in await broker.subjects(tick_log(self.number)):
                if is_pulse(subject) and (last := await broker.last(subject)) is not None:
                    self._take_pulse(last)
        except BrokerUnavailable as error:
            # Streams of this shard are judged by what comes.
            log.warning("pulses_not_read", shard=self.number, reason=str(error))

    def _take_pulse(self, message: Message) -> None:
        try:
            pulse = decode_pulse(message.payload)
        except UNREADABLE as error:
            log.error("record_unreadable", subject=message.subject, error=str(error))
            return
        sources = self._sources
        sources.pulses.record(pulse.venue, pulse.products, pulse.ts_ingest, sources.micros())

    async def _receive(self, subscription: LiveSubscription) -> None:
        feeds, read = self.feeds, self._sources.records.read
        while True:
            batch = await subscription.next_batch()
            self._backoff.reset()
            if batch.interrupted:
                log.warning("tail_interrupted", shard=self.number)
                for feed in list(feeds.values()):
                    feed.on_interrupted()
            by_feed: dict[str, list[Message]] = {}
            for message in batch.messages:
                if message.subject in feeds:
                    by_feed.setdefault(message.subject, []).append(message)
                elif is_pulse(message.subject):
                    self._take_pulse(message)
            for subject, messages in by_feed.items():
                feed = feeds[subject]
                try:
                    feed.on_live(read(messages))
                except Exception:  # whatever it was: it costs this stream its state, no other one
                    log.exception("stream_failed", stream=str(feed.key))
                    feed.on_failure()
