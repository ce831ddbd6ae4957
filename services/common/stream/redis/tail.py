"""Following a log's streams in order: what the live subscription and groups share.

A stream whose key somebody else holds with something that is no stream is left out, and the log's
other streams are read; where that is mended, it is read from where it was read to.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from typing import Any

import structlog

from services.common.errors import BrokerUnavailable
from services.common.resilience import delay_s
from services.common.stream.redis.client import RedisClient
from services.common.stream.redis.logs import Logs
from services.common.stream.redis.records import RedisMessage, Source, Sources, announced
from services.common.stream.worker import Subscription

log = structlog.get_logger(__name__)

MAX_BUFFERED = 4096
_MAX_BUFFERED_BYTES = 32 * 1024 * 1024
_MOST_PER_STREAM = 512
# How often streams that are left out are looked at again.
_LOOK_S = 5.0
# What Redis calls the kinds of key that can be read as a stream, now or once something is written.
_READABLE = (b"stream", b"none")


class Tail(Subscription, ABC):
    """Reads a log's streams in order into a bounded buffer, finding new streams at once."""

    def __init__(self, what: str, client: RedisClient, logs: Logs, log_name: str) -> None:
        super().__init__(what)
        self._client = client
        self._logs = logs
        self._names = logs.names
        self._log_name = log_name
        self._registry = logs.names.registry(log_name)
        self._epoch = 0
        self._sources = Sources()
        self._by_key: dict[bytes, Source] = {}
        self._buffer: deque[RedisMessage] = deque()
        self._bytes = 0
        self._room = asyncio.Event()
        # Of which it was told that they are left out; kept over outages, so that it is told once.
        self._told: set[Source] = set()
        self._looked_at = 0.0

    @abstractmethod
    async def _join(self) -> None:
        """Begin, or begin again after an outage."""

    @abstractmethod
    async def _read(self, sources: Sequence[Source], count: int, block: bool) -> Any:
        """One read of the registry and of `sources`, at most `count` records of each."""

    def _capacity(self) -> int:
        """How many more records may be buffered."""
        if self._bytes >= _MAX_BUFFERED_BYTES:
            return 0
        return MAX_BUFFERED - len(self._buffer)

    async def _found(self, fresh: Sequence[Source]) -> None:
        """New streams were announced, or left out ones can be read again."""

    async def _run(self) -> None:
        attempt = 0
        while True:
            try:
                await self._join()
                self.has_joined()
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
            self._by_key[self._names.stream(source).encode()] = source
        readable = await self._sort_out(fresh)
        if readable:
            await self._found(readable)

    async def _sort_out(self, sources: Sequence[Source]) -> list[Source]:
        """Leave out what is no stream; answers the others."""
        asked = [("TYPE", self._names.stream(source)) for source in sources]
        kinds = self._client.checked(await self._client.batch(asked))
        readable: list[Source] = []
        for source, kind in zip(sources, kinds, strict=True):
            key = self._names.stream(source)
            if kind in _READABLE:
                self._sources.take_back(source)
                readable.append(source)
                if source in self._told:
                    self._told.discard(source)
                    log.info("stream_readable_again", what=self.what, key=key)
                continue
            self._sources.leave_out(source)
            if source not in self._told:
                self._told.add(source)
                kind = kind.decode(errors="replace")
                action = "find out who wrote it, and delete the key"
                log.error("stream_left_out", what=self.what, key=key, holds=kind, action=action)
        return readable

    async def _look_at_left_out(self) -> None:
        """Read those again that are streams by now."""
        now = asyncio.get_running_loop().time()
        if now - self._looked_at < _LOOK_S:
            return
        self._looked_at = now
        if mended := await self._sort_out(self._sources.left_out()):
            await self._found(mended)

    async def _cycle(self) -> None:
        if self._sources.left_out():
            await self._look_at_left_out()
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
                self._hold(source, identity, fields)
            self._advance(source, entries[-1][0])
        for source in sources[:room]:
            if source not in given:
                self._sources.drained(source)
        if fresh:
            await self._add(fresh)
        if self._buffer:
            self.changed.ring()

    def _hold(self, source: Source, identity: bytes, fields: Any) -> None:
        """Put a record into the buffer, unless it was deleted (then it has no fields)."""
        if fields is not None:
            message = RedisMessage(source, identity, fields, self._epoch)
            self._buffer.append(message)
            self._bytes += len(message.payload)

    async def _known_epoch(self) -> set[Source]:
        """The log's streams.

        Raises:
            BrokerUnavailable: the log was replaced while the connection stood; begin again.
        """
        epoch, held = await self._logs.prepare(self._client, self._log_name)
        if epoch != self._epoch:
            raise BrokerUnavailable(self._client.target, f"log {self._log_name} was replaced")
        return held

    async def _resumed(self) -> None:
        """Reading goes on after the caller let the buffer fill up."""

    async def _announcements(self, identities: Sequence[bytes]) -> None:
        """Entries of the registry were read."""

    def _advance(self, source: Source, identity: bytes) -> None:
        """A stream was read up to here."""

    def _drain(self, limit: int) -> list[RedisMessage]:
        batch = [self._buffer.popleft() for _ in range(min(limit, len(self._buffer)))]
        self._bytes -= sum(len(message.payload) for message in batch)
        self._room.set()
        return batch

    async def aclose(self) -> None:
        await super().aclose()
        await self._client.aclose()
