"""Following a log's streams: the live subscription, and what it shares with groups."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import structlog

from services.common.errors import BrokerUnavailable
from services.common.resilience.backoff import delay_s
from services.common.stream.broker import LiveBatch, LiveSubscription
from services.common.stream.redis.client import BLOCK_MS, RedisClient, refusal
from services.common.stream.redis.records import (
    Names,
    RedisMessage,
    Source,
    announced,
    parse_id,
    trimmed_id,
)
from services.common.stream.redis.sources import Sources
from services.common.stream.worker import Worker

log = structlog.get_logger(__name__)

Prepare = Callable[[RedisClient, str], Awaitable[tuple[int, set[Source]]]]

_BUFFER = 4096
_BUFFER_BYTES = 32 * 1024 * 1024
_MOST_PER_STREAM = 512


class Tail(Worker, ABC):
    """Reads a log's streams in order into a bounded buffer, finding new streams at once."""

    def __init__(
        self, what: str, client: RedisClient, names: Names, *, prepare: Prepare, log_name: str
    ) -> None:
        super().__init__(what)
        self._client = client
        self._names = names
        self._prepare = prepare
        self._log_name = log_name
        self._registry = names.registry(log_name)
        self._epoch = 0
        self._sources = Sources()
        self._by_key: dict[bytes, Source] = {}
        self._buffer: deque[RedisMessage] = deque()
        self._bytes = 0
        self._room = asyncio.Event()
        self.joined = asyncio.Event()

    @abstractmethod
    async def _join(self) -> None:
        """Begin, or begin again after an outage."""

    @abstractmethod
    async def _read(self, sources: Sequence[Source], count: int, block: bool) -> Any:
        """One read of the registry and of `sources`, at most `count` records of each."""

    def _capacity(self) -> int:
        """How many more records may be buffered."""
        if self._bytes >= _BUFFER_BYTES:
            return 0
        return _BUFFER - len(self._buffer)

    async def _found(self, fresh: Sequence[Source]) -> None:
        """New streams were announced."""

    async def _run(self) -> None:
        attempt = 0
        while True:
            try:
                await self._join()
                self.joined.set()
                self.changed.ring()
                while True:
                    await self._cycle()
                    attempt = 0
            except BrokerUnavailable as error:
                log.warning("tail_interrupted", what=self.what, reason=error.reason)
            await asyncio.sleep(delay_s(attempt))
            attempt += 1

    async def _add(self, sources: Sequence[Source]) -> None:
        fresh = [source for source in sources if self._sources.add(source)]
        for source in fresh:
            self._by_key[self._names.stream(*source).encode()] = source
        if fresh:
            await self._found(fresh)

    async def _cycle(self) -> None:
        sources, behind = self._sources.readable()
        # COUNT is for each stream; one is asked at least, so the buffer may pass its bound by
        # one record a stream.
        if self._capacity() <= 0:
            while self._capacity() <= 0:
                self._room.clear()
                await self._room.wait()
            await self._resumed()
        room = self._capacity()
        count = max(1, min(_MOST_PER_STREAM, room // max(1, len(sources))))
        answer = await self._read(sources[:room], count, not behind)
        given: set[Source] = set()
        fresh: list[Source] = []
        for key, entries in answer or ():
            source = self._by_key.get(key)
            if source is None:
                fresh += [found for _, f in entries if (found := announced(f)) is not None]
                await self._announcements([identity for identity, _ in entries])
                continue
            if len(entries) == count:
                given.add(source)
            for identity, fields in entries:
                if fields is not None:
                    message = RedisMessage(source, identity, fields, self._epoch)
                    self._buffer.append(message)
                    self._bytes += len(message.payload)
            self._advance(source, entries[-1][0])
        for source in sources[:room]:
            if source not in given:
                self._sources.drained(source)
        if fresh:
            await self._add(fresh)
        if self._buffer:
            self.changed.ring()

    async def _known_epoch(self) -> set[Source]:
        """The log's streams.

        Raises:
            BrokerUnavailable: the log was replaced while the connection stood; begin again.
        """
        epoch, held = await self._prepare(self._client, self._log_name)
        if epoch != self._epoch:
            raise BrokerUnavailable(self._client.target, f"log {self._log_name} was replaced")
        return held

    async def _resumed(self) -> None:
        """Reading goes on after the caller let the buffer fill up."""

    async def _announcements(self, identities: Sequence[bytes]) -> None:
        """Entries of the registry were read."""

    def _advance(self, source: Source, identity: bytes) -> None:
        """A stream was read up to here."""

    def _take(self, limit: int) -> list[RedisMessage]:
        batch = [self._buffer.popleft() for _ in range(min(limit, len(self._buffer)))]
        self._bytes -= sum(len(message.payload) for message in batch)
        self._room.set()
        return batch

    async def aclose(self) -> None:
        await super().aclose()
        await self._client.aclose()


class RedisLive(Tail, LiveSubscription):
    """See `LiveSubscription`. Holds places in the streams, so it misses nothing over an outage.

    It is interrupted only when a stream was trimmed in front of it, or the log was lost.
    """

    def __init__(
        self, client: RedisClient, names: Names, *, prepare: Prepare, log_name: str
    ) -> None:
        super().__init__(f"live on {log_name}", client, names, prepare=prepare, log_name=log_name)
        self._places: dict[Source, str] = {}
        self._announced_to = "0-0"
        self._interrupted = False
        self.start(self._run())

    async def next_batch(self) -> LiveBatch:
        while not self._buffer and not self._interrupted:
            self.check_open()
            await self.changed.wait()
        self.check_open()
        interrupted, self._interrupted = self._interrupted, False
        return LiveBatch(self._take(_BUFFER), interrupted)

    async def _join(self) -> None:
        epoch, held = await self._prepare(self._client, self._log_name)
        if not self.joined.is_set():
            await self._begin(epoch, held)
        elif epoch != self._epoch:
            # Another log: everything in it is new.
            self._epoch = epoch
            self._sources, self._places, self._by_key = Sources(), {}, {}
            self._announced_to = "0-0"
            self._interrupted = True
            self.changed.ring()
        else:
            await self._check_trimmed()

    async def _begin(self, epoch: int, held: set[Source]) -> None:
        self._epoch = epoch
        ordered = sorted(held)
        answers = await self._client.transact(
            [
                ("XREVRANGE", self._registry, "+", "-", "COUNT", 1),
                *(
                    ("XREVRANGE", self._names.stream(*source), "+", "-", "COUNT", 1)
                    for source in ordered
                ),
            ]
        )
        if text := next(filter(None, map(refusal, answers)), None):
            raise BrokerUnavailable(self._client.target, text)
        newest = answers[0]
        self._announced_to = newest[0][0].decode() if newest else "0-0"
        for source, entries in zip(ordered, answers[1:], strict=True):
            self._places[source] = entries[0][0].decode() if entries else "0-0"
        await self._add(ordered)
        # A stream announced between the two looks begins in the one and is known in the other.
        _, now = await self._prepare(self._client, self._log_name)
        await self._add(sorted(now))

    async def _resumed(self) -> None:
        await self._check_trimmed()

    async def _check_trimmed(self) -> None:
        trimmed = await self._client.call("HGETALL", self._names.trimmed(self._log_name))
        for source, place in self._places.items():
            newest = trimmed.get(self._names.stream(*source).encode())
            if trimmed_id(newest) > parse_id(place):
                self._interrupted = True
                self.changed.ring()

    async def _read(self, sources: Sequence[Source], count: int, block: bool) -> Any:
        return await self._client.call(
            "XREAD",
            *("COUNT", count),
            *(("BLOCK", BLOCK_MS) if block else ()),
            "STREAMS",
            self._registry,
            *(self._names.stream(*source) for source in sources),
            self._announced_to,
            *(self._places.get(source, "0-0") for source in sources),
        )

    async def _announcements(self, identities: Sequence[bytes]) -> None:
        await self._known_epoch()
        self._announced_to = identities[-1].decode()

    def _advance(self, source: Source, identity: bytes) -> None:
        self._places[source] = identity.decode()
