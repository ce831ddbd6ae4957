"""RedisBroker: logs as Redis Streams (Redis 7 or later, Valkey).

See `records.py` for the keys. A cursor is `<log epoch>@<epoch>.<seq>-<sub>`, the place of a
record itself, so that `seek` is one lookup. Streams are trimmed by age in the background while the
broker is open, by the (time, id) marks publishers leave; the newest trimmed id is kept, and a
cursor before it raises `PositionLost`: exactly when a record of the subject was lost to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

import structlog

from services.common.errors import BrokerClosed, BrokerUnavailable, PositionLost
from services.common.network.tls import NO_TLS_FILES, TlsFiles
from services.common.resilience import delay_s
from services.common.stream.broker_base import BrokerBase, GroupOptions, PublisherOptions
from services.common.stream.records import LogSpec, Message, Page, Position
from services.common.stream.redis.client import EVICTION_ACTION, RedisClient, Refused, eviction_of
from services.common.stream.redis.group import RedisGroup
from services.common.stream.redis.live import RedisLive
from services.common.stream.redis.logs import Logs, Trimmer
from services.common.stream.redis.publisher import RedisPublisher
from services.common.stream.redis.records import (
    ZERO,
    RedisMessage,
    Source,
    behind,
    cursor_at,
    parse_cursor,
    parse_id,
)
from services.common.stream.worker import Worker, say_failed_try
from services.common.subjects import RAW_LOG, log_of

log = structlog.get_logger(__name__)


class RedisBroker(BrokerBase):
    """See `Broker`.

    Args:
        url: of one server (no cluster: a transaction spans the streams of a log).
        prefix: of all keys.
        tls: whom to believe, and the client certificate to show, where the URL is `rediss://`.
    """

    def __init__(self, url: str, *, prefix: str = "market", tls: TlsFiles = NO_TLS_FILES) -> None:
        super().__init__()
        self._connect = partial(RedisClient, url, tls=tls)
        self._logs = Logs(prefix)
        self._client: RedisClient | None = None
        self._trimmer: Trimmer | None = None
        # Why the server deletes records by itself, while it does.
        self._eviction: str | None = None

    # ------------------------------------------------------------------ life

    async def open(self) -> None:
        if self._client is None:
            self._client = self._connect()
        attempt = 0
        while True:
            try:
                await self.ping()
            except BrokerUnavailable as error:
                say_failed_try(attempt, "broker_connect_failed", kind="redis", reason=str(error))
                await asyncio.sleep(delay_s(attempt))
                attempt += 1
            else:
                break
        log.info("broker_connected", kind="redis", target=self._client.target)
        with suppress(BrokerUnavailable):
            await self.look_for_eviction()
        if self._trimmer is None:
            self._keep_trimming()

    async def _disconnect(self) -> None:
        if self._client is not None:
            await self._client.aclose()

    def _keep_trimming(self) -> None:
        self._trimmer = self._own(Trimmer(self._keep_up))

    async def _keep_up(self) -> None:
        await self.look_for_eviction()
        await self.trim()

    def _on_ended(self, worker: Worker) -> None:
        super()._on_ended(worker)
        if worker is self._trimmer and not worker.closed:
            # Nobody else waits for it, and logs that are not trimmed fill the server.
            self._workers.remove(worker)
            if not isinstance(worker.failure, asyncio.CancelledError):
                self._keep_trimming()

    def _calls(self) -> RedisClient:
        if self._closed or self._client is None:
            raise BrokerClosed
        return self._client

    async def ping(self) -> None:
        # A read, which nobody's rights but those to these keys are needed for. A server that is out
        # of memory, or a replica, answers it, and whoever only reads can go on with it.
        await self._calls().call("EXISTS", self._logs.names.epoch(RAW_LOG))
        self.check_storing()

    # ------------------------------------------------------------------ logs

    async def ensure(self, specs: Sequence[LogSpec]) -> None:
        client = self._calls()
        for spec in specs:
            await self._logs.ensure(client, spec)

    async def held(self, _log: str) -> None:
        """Logs are kept by age alone."""

    async def log_epoch(self, log: str) -> int:
        return (await self._logs.prepare(self._calls(), log))[0]

    async def subjects(self, log: str) -> Sequence[str]:
        return await self._logs.subjects(self._calls(), log)

    async def trim(self) -> None:
        """Drop what is older than its log's retention; called in the background."""
        await self._logs.trim(self._calls())

    def hazards(self) -> Sequence[str]:
        return [] if self._eviction is None else [self._eviction]

    async def look_for_eviction(self) -> None:
        """See whether the server deletes records by itself, and say so when that changes.

        Raises:
            BrokerUnavailable: it does not answer.
        """
        try:
            memory = await self._calls().call("INFO", "memory")
        except Refused as error:
            # Without the right to ask, the server's own settings are the operator's to know.
            log.debug("redis_memory_not_told", reason=error.reason)
            return
        before, self._eviction = self._eviction, eviction_of(memory)
        if self._eviction is not None and self._eviction != before:
            log.error("redis_evicts", policy=self._eviction, action=EVICTION_ACTION)
        elif before is not None and self._eviction is None:
            log.info("redis_evicts_no_more")

    # ------------------------------------------------------------------ publish and follow

    def _publisher(self, options: PublisherOptions) -> RedisPublisher:
        self._calls()
        return RedisPublisher(self._connect(sticky=True), self._logs, options)

    def _group(self, options: GroupOptions) -> RedisGroup:
        self._calls()
        return RedisGroup(self._connect(), self._logs, options, acks=self._connect())

    def _live(self, log: str) -> RedisLive:
        self._calls()
        return RedisLive(self._connect(), self._logs, log)

    # ------------------------------------------------------------------ read

    async def read(self, subject: str, cursor: str = "", *, limit: int = 1000) -> Page:
        name = log_of(subject)
        log_epoch, epochs, _, _ = await self._logs.look(self._calls(), name, subject)
        after = parse_cursor(subject, cursor, log_epoch) if cursor else Position(0, 0, 0)
        found: list[Message] = []
        end, at_head = after, True
        for epoch in epochs:
            if epoch < after.epoch:
                continue
            start = after[1:] if epoch == after.epoch else ZERO
            source = Source(subject, epoch)
            key = self._logs.names.stream(source)
            room = limit - len(found)
            asked = ("XRANGE", key, behind(start), "+", "COUNT", room + 1)
            now, _, trimmed, [records] = await self._logs.look(
                self._calls(), name, subject, [asked]
            )
            gone = trimmed.get(epoch, ZERO)
            if now != log_epoch or (cursor and gone > start):
                raise PositionLost(subject, cursor, cursor_at(now, epoch, gone))
            taken = records[:room]
            found += [RedisMessage(source, i, f, log_epoch) for i, f in taken]
            end = Position(epoch, *(parse_id(taken[-1][0]) if taken else max(start, gone)))
            at_head = len(records) <= room
            if not at_head:
                break
        return Page(found, cursor_at(log_epoch, end.epoch, end[1:]), at_head)

    async def seek(self, subject: str, after: Position) -> str:
        name = log_of(subject)
        log_epoch, epochs, trimmed, _ = await self._logs.look(self._calls(), name, subject)
        place = (0, ZERO)
        for epoch in epochs:
            gone = trimmed.get(epoch, ZERO)
            if epoch < after.epoch:
                place = (epoch, gone)
                continue
            start = max(gone, after[1:] if epoch == after.epoch else ZERO)
            key = self._logs.names.stream(Source(subject, epoch))
            if await self._calls().call("XRANGE", key, behind(start), "+", "COUNT", 1):
                return cursor_at(log_epoch, epoch, start)
            place = (epoch, gone)
        newest = await self.last(subject)
        if newest is not None:
            return newest.cursor
        return cursor_at(log_epoch, *place)

    async def first(self, subject: str) -> Message | None:
        return await self._end(subject, newest=False)

    async def last(self, subject: str) -> Message | None:
        return await self._end(subject, newest=True)

    async def _end(self, subject: str, *, newest: bool) -> Message | None:
        log_epoch, epochs, _, _ = await self._logs.look(self._calls(), log_of(subject), subject)
        for epoch in reversed(epochs) if newest else epochs:
            source = Source(subject, epoch)
            key = self._logs.names.stream(source)
            command = ("XREVRANGE", key, "+", "-") if newest else ("XRANGE", key, "-", "+")
            for identity, fields in await self._calls().call(*command, "COUNT", 1):
                return RedisMessage(source, identity, fields, log_epoch)
        return None
