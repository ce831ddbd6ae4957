"""RedisBroker: logs as Redis Streams (Redis 7 or later, Valkey).

See `redis_records` for the keys. A cursor is `<log epoch>@<epoch>.<seq>-<sub>`, the place of a
record itself, so that `seek` is one lookup. Streams are trimmed by age in the background while the
broker is open, by the (time, id) marks publishers leave; the newest trimmed id is kept, and a
cursor before it raises `PositionLost`: exactly when a record of the subject was lost to it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import structlog

from services.common.errors import BrokerClosed, BrokerUnavailable, PositionLost
from services.common.network.tls import NO_TLS_FILES, TlsFiles
from services.common.resilience.backoff import delay_s
from services.common.stream.broker import (
    Broker,
    Capabilities,
    GroupSubscription,
    LiveSubscription,
    LogSpec,
    Message,
    OnRefused,
    Page,
    Position,
    Publisher,
)
from services.common.stream.redis.client import Command, RedisClient, Refused, refusal
from services.common.stream.redis.eviction import EVICTION_ACTION, eviction_of
from services.common.stream.redis.group import RedisGroup
from services.common.stream.redis.publisher import RedisPublisher
from services.common.stream.redis.records import (
    ZERO,
    Names,
    RedisMessage,
    Source,
    announced,
    cursor_at,
    parse_cursor,
    parse_id,
    trimmed_id,
)
from services.common.stream.redis.tail import RedisLive, Tail
from services.common.stream.storing import Storing, storing
from services.common.stream.worker import Worker, worth_saying
from services.common.subjects import RAW_LOG, log_of

log = structlog.get_logger(__name__)

_TRIM_EVERY_S = 10.0

# Trims a stream to its newest mark not above a time and keeps the newest id that went, at once.
# KEYS: stream, marks, hash of trimmed ids. ARGV: the time.
_TRIM = """
local mark = redis.call('ZREVRANGEBYSCORE', KEYS[2], ARGV[1], '-inf', 'LIMIT', 0, 1)[1]
if not mark then return 0 end
local last = redis.call('XREVRANGE', KEYS[1], '(' .. mark, '-', 'COUNT', 1)[1]
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', '(' .. ARGV[1])
if not last then return 0 end
redis.call('HSET', KEYS[3], KEYS[1], last[1])
return redis.call('XTRIM', KEYS[1], 'MINID', '=', mark)
"""


class RedisBroker(Broker):
    """See `Broker`.

    Args:
        url: of one server (no cluster: a transaction spans the streams of a log).
        prefix: of all keys.
        tls: whom to believe, and the client certificate to show, where the URL is `rediss://`.
    """

    capabilities = Capabilities(durable=True, live_may_miss=False, duplicate_window=False)

    def __init__(self, url: str, *, prefix: str = "market", tls: TlsFiles = NO_TLS_FILES) -> None:
        self._connect = partial(RedisClient, url, tls=tls)
        self._names = Names(prefix)
        self._specs: dict[str, LogSpec] = {}
        self._client: RedisClient | None = None
        self._workers: list[Worker] = []
        self._trimmer: _Trimmer | None = None
        self._closed = False
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
                say = log.warning if worth_saying(attempt) else log.debug
                say("broker_connect_failed", kind="redis", reason=str(error))
                await asyncio.sleep(delay_s(attempt))
                attempt += 1
            else:
                break
        log.info("broker_connected", kind="redis", target=self._client.target)
        with suppress(BrokerUnavailable):
            await self.look_for_eviction()
        self._keep_trimming()

    async def aclose(self) -> None:
        self._closed = True
        for worker in self._workers:
            await worker.aclose()
        self._workers.clear()
        if self._client is not None:
            await self._client.aclose()

    def _calls(self) -> RedisClient:
        if self._closed or self._client is None:
            raise BrokerClosed
        return self._client

    def _own[W: Worker](self, worker: W) -> W:
        self._workers = [held for held in self._workers if not held.ended]
        self._workers.append(worker)
        return worker

    def _keep_trimming(self) -> None:
        if self._trimmer is None or self._trimmer.failed:
            self._trimmer = self._own(_Trimmer(self))

    async def ping(self) -> None:
        if self._trimmer is not None:
            # Nobody waits for it, so nobody else would learn that it failed.
            self._keep_trimming()
        # A read, which nobody's rights but those to these keys are needed for. A server that is out
        # of memory, or a replica, answers it, and whoever only reads can go on with it.
        await self._calls().call("EXISTS", self._names.epoch(RAW_LOG))
        self.check_storing()

    def storing(self) -> Storing:
        held = (worker for worker in self._workers if not worker.ended)
        return storing(worker.stats() for worker in held if isinstance(worker, Publisher))

    # ------------------------------------------------------------------ logs

    async def ensure(self, specs: Sequence[LogSpec]) -> None:
        client = self._calls()
        for spec in specs:
            self._specs[spec.log] = spec
            await self._make(client, spec.log)

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

    async def _make(self, client: RedisClient, name: str) -> None:
        if await client.call("EXISTS", self._names.epoch(name)):
            # Nothing to write, so that also a full server's logs can be read by who begins now.
            return
        seconds, micros = await client.call("TIME")
        made = int(seconds) * 1_000_000 + int(micros)
        await client.call("SET", self._names.epoch(name), made, "NX")

    async def _prepare(self, client: RedisClient, name: str) -> tuple[int, set[Source]]:
        """Make sure that the log exists; its epoch and the streams it holds."""
        while True:
            answers = await client.transact(
                [
                    ("GET", self._names.epoch(name)),
                    ("XRANGE", self._names.registry(name), "-", "+"),
                ]
            )
            # Also where somebody put something else at these keys.
            if text := next(filter(None, map(refusal, answers)), None):
                raise BrokerUnavailable(client.target, f"log {name}: {text}")
            epoch, entries = answers
            if epoch is not None:
                break
            if name not in self._specs:
                raise BrokerUnavailable(client.target, f"log {name} does not exist")
            await self._make(client, name)
        found = {source for _, f in entries if (source := announced(f)) is not None}
        if not epoch.isdigit():
            said = f"log {name}: {self._names.epoch(name)} holds no epoch but {epoch[:40]!r}"
            raise BrokerUnavailable(client.target, said)
        return int(epoch), found

    async def held(self, _log: str) -> None:
        """Logs are kept by age alone."""

    async def log_epoch(self, log: str) -> int:
        return (await self._prepare(self._calls(), log))[0]

    async def subjects(self, log: str) -> Sequence[str]:
        client = self._calls()
        _, held = await self._prepare(client, log)
        sources = sorted(held)
        lengths = await client.batch([("XLEN", self._names.stream(*source)) for source in sources])
        return sorted({s.subject for s, length in zip(sources, lengths, strict=True) if length})

    # ------------------------------------------------------------------ publish and follow

    async def publisher(
        self,
        *,
        max_records: int = 4096,
        max_bytes: int = 32 * 1024 * 1024,
        on_refused: OnRefused | None = None,
    ) -> Publisher:
        self._calls()
        return self._own(
            RedisPublisher(
                self._connect(sticky=True),
                self._names,
                specs=self._specs,
                prepare=self._prepare,
                max_records=max_records,
                max_bytes=max_bytes,
                on_refused=on_refused,
            )
        )

    async def group(
        self, log: str, group: str, *, max_pending: int = 8192, ack_wait_s: float = 30.0
    ) -> GroupSubscription:
        await self._prepare(self._calls(), log)
        return await self._begun(
            RedisGroup(
                self._connect(),
                self._names,
                prepare=self._prepare,
                log_name=log,
                group=group,
                max_pending=max_pending,
                ack_wait_s=ack_wait_s,
                acks=self._connect(),
            )
        )

    async def live(self, log: str) -> LiveSubscription:
        await self._prepare(self._calls(), log)
        return await self._begun(
            RedisLive(self._connect(), self._names, prepare=self._prepare, log_name=log)
        )

    async def _begun[T: Tail](self, tail: T) -> T:
        self._own(tail)
        while not tail.joined.is_set():
            tail.check_open()
            await tail.changed.wait()
        return tail

    # ------------------------------------------------------------------ read

    async def _look(
        self, log: str, subject: str, commands: Sequence[Command] = ()
    ) -> tuple[int, list[int], dict[int, tuple[int, int]], list[Any]]:
        """The log's epoch, the subject's epochs, what was trimmed of each, answers to `commands`.

        The commands run before the look at what was trimmed, in the same step.
        """
        client = self._calls()
        log_epoch, held = await self._prepare(client, log)
        epochs = sorted(source.epoch for source in held if source.subject == subject)
        keys = [self._names.stream(subject, epoch) for epoch in epochs]
        looked: list[Command] = list(commands)
        if keys:
            looked.append(("HMGET", self._names.trimmed(log), *keys))
        answers = await client.transact(looked) if looked else []
        for answer in answers:
            if text := refusal(answer):
                raise BrokerUnavailable(client.target, text)
        trimmed = {}
        if keys:
            newest = answers.pop()
            pairs = zip(epochs, map(trimmed_id, newest), strict=True)
            trimmed = {epoch: place for epoch, place in pairs if place != ZERO}
        return log_epoch, epochs, trimmed, answers

    async def read(self, subject: str, cursor: str = "", *, limit: int = 1000) -> Page:
        name = log_of(subject)
        log_epoch, epochs, _, _ = await self._look(name, subject)
        after = parse_cursor(subject, cursor, log_epoch) if cursor else Position(0, 0, 0)
        found: list[Message] = []
        end = after
        for epoch in epochs:
            if epoch < after.epoch:
                continue
            start = after[1:] if epoch == after.epoch else ZERO
            key = self._names.stream(subject, epoch)
            room = limit - len(found)
            begin = f"({start[0]}-{start[1]}" if start != ZERO else "-"
            now, _, trimmed, [entries] = await self._look(
                name, subject, [("XRANGE", key, begin, "+", "COUNT", room + 1)]
            )
            gone = trimmed.get(epoch, ZERO)
            if now != log_epoch or (cursor and gone > start):
                raise PositionLost(subject, cursor, cursor_at(now, epoch, gone))
            source = Source(subject, epoch)
            found += [RedisMessage(source, i, f, log_epoch) for i, f in entries[:room]]
            place = parse_id(entries[:room][-1][0]) if entries[:room] else max(start, gone)
            end = Position(epoch, *place)
            if len(entries) > room:
                return Page(found, cursor_at(log_epoch, end.epoch, end[1:]), at_head=False)
        return Page(found, cursor_at(log_epoch, end.epoch, end[1:]), at_head=True)

    async def seek(self, subject: str, after: Position) -> str:
        name = log_of(subject)
        log_epoch, epochs, trimmed, _ = await self._look(name, subject)
        place = (0, ZERO)
        for epoch in epochs:
            gone = trimmed.get(epoch, ZERO)
            if epoch < after.epoch:
                place = (epoch, gone)
                continue
            start = max(gone, after[1:] if epoch == after.epoch else ZERO)
            key = self._names.stream(subject, epoch)
            begin = f"({start[0]}-{start[1]}" if start != ZERO else "-"
            if await self._calls().call("XRANGE", key, begin, "+", "COUNT", 1):
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
        log_epoch, epochs, _, _ = await self._look(log_of(subject), subject)
        for epoch in reversed(epochs) if newest else epochs:
            key = self._names.stream(subject, epoch)
            command = ("XREVRANGE", key, "+", "-") if newest else ("XRANGE", key, "-", "+")
            entries = await self._calls().call(*command, "COUNT", 1)
            if entries:
                identity, fields = entries[0]
                return RedisMessage(Source(subject, epoch), identity, fields, log_epoch)
        return None

    async def trim(self) -> None:
        """Drop what is older than its log's retention; called in the background."""
        client = self._calls()
        for name, spec in list(self._specs.items()):
            _, held = await self._prepare(client, name)
            limit = time.time() - spec.retention_s
            await client.batch(
                [
                    (
                        *("EVAL", _TRIM, 3, self._names.stream(*source)),
                        *(self._names.marks(*source), self._names.trimmed(name), limit),
                    )
                    for source in sorted(held)
                ]
            )


class _Trimmer(Worker):
    def __init__(self, broker: RedisBroker) -> None:
        super().__init__("trimmer")
        self._broker = broker
        self.start(self._run())

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_TRIM_EVERY_S)
            try:
                await self._broker.look_for_eviction()
                await self._broker.trim()
            except BrokerUnavailable as error:
                log.debug("trim_failed", reason=error.reason)
