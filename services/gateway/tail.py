"""Following the tick logs: one live reader per shard with interest, one feed per stream."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import structlog

from services.common.errors import BrokerClosed, BrokerUnavailable
from services.common.stream.broker import LiveSubscription, Message
from services.common.subjects import StreamKey, tick_log
from services.gateway.feed import Feed, Sources, entries_of
from services.gateway.hub import Hub
from services.gateway.window import Budget

log = structlog.get_logger(__name__)

_RETRY_FIRST_S = 0.05
_RETRY_MOST_S = 2.0


class Hold:
    """One holder's interest in a stream: it is followed until the last of them is released."""

    __slots__ = ("_released", "feed")

    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        self._released = False
        feed.interest += 1

    def release(self) -> None:
        """Give it back; again has no effect, so that nobody can give back another's."""
        if not self._released:
            self._released = True
            self.feed.interest -= 1
            self.feed.idle_since = time.monotonic()


class Tails:
    """All feeds, and the shard readers they need. Enter it for as long as the service runs."""

    def __init__(self, sources: Sources, hub: Hub, *, total_bytes: int, linger_s: float) -> None:
        self._sources = sources
        self._hub = hub
        self._budget = Budget(total_bytes)
        self._linger_s = linger_s
        self._group: asyncio.TaskGroup | None = None
        self._feeds: dict[StreamKey, Feed] = {}
        self._tasks: dict[StreamKey, asyncio.Task[None]] = {}
        self._shards: dict[int, _Shard] = {}

    @property
    def feeds(self) -> dict[StreamKey, Feed]:
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
    def hold(self, key: StreamKey) -> Iterator[Feed]:
        """The stream's feed, kept for as long as the block runs."""
        hold = self.acquire(key)
        try:
            yield hold.feed
        finally:
            hold.release()

    def acquire(self, key: StreamKey) -> Hold:
        """Keep the stream followed; await its feed's `ready` before using the replica."""
        feed = self._feeds.get(key)
        if feed is None:
            assert self._group is not None, "tails are used before they are started"
            feed = self._feeds[key] = Feed(key, self._sources, self._hub, self._budget)
            shard = self._shards.get(feed.shard)
            if shard is None:
                shard = self._shards[feed.shard] = _Shard(feed.shard, self._sources)
                shard.task = self._group.create_task(shard.run(), name=f"tail:{feed.shard}")
            shard.feeds[feed.subject] = feed
            self._tasks[key] = self._group.create_task(
                self._follow(feed, shard), name=f"feed:{key}"
            )
        return Hold(feed)

    async def _follow(self, feed: Feed, shard: _Shard) -> None:
        # Live records are joined first, so that nothing falls between the log's end and them.
        await shard.joined.wait()
        delay = _RETRY_FIRST_S
        with suppress(BrokerClosed):
            while True:
                try:
                    await feed.run()
                except BrokerClosed:
                    raise
                except Exception:  # whatever it was: it costs this stream its state, no other one
                    log.exception("stream_failed", stream=str(feed.key))
                    feed.on_failure()
                    await asyncio.sleep(delay)
                    delay = min(delay * 2, _RETRY_MOST_S)

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


class _Shard:
    """The live reader of one tick log."""

    def __init__(self, number: int, sources: Sources) -> None:
        self.number = number
        self.feeds: dict[str, Feed] = {}
        self.joined = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self._sources = sources

    async def run(self) -> None:
        delay = _RETRY_FIRST_S
        while True:
            try:
                subscription = await self._sources.broker.live(tick_log(self.number))
            except BrokerUnavailable as error:
                log.warning("tail_failed", shard=self.number, reason=str(error))
                await asyncio.sleep(delay)
                delay = min(delay * 2, _RETRY_MOST_S)
                continue
            except BrokerClosed:
                return
            try:
                self.joined.set()
                await self._receive(subscription)
            except BrokerClosed:
                return
            finally:
                await subscription.aclose()

    async def _receive(self, subscription: LiveSubscription) -> None:
        feeds = self.feeds
        while True:
            batch = await subscription.next_batch()
            if batch.interrupted:
                log.warning("tail_interrupted", shard=self.number)
                for feed in list(feeds.values()):
                    feed.on_interrupted()
            by_feed: dict[str, list[Message]] = {}
            for message in batch.messages:
                if message.subject in feeds:
                    by_feed.setdefault(message.subject, []).append(message)
            for subject, messages in by_feed.items():
                feed = feeds[subject]
                try:
                    feed.on_live(entries_of(messages))
                except Exception:  # whatever it was: it costs this stream its state, no other one
                    log.exception("stream_failed", stream=str(feed.key))
                    feed.on_failure()
