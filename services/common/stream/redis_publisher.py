"""The pipelined Redis publisher.

One transaction at a time, of up to 512 records in order; the next fills up meanwhile. A transaction
is refused as a whole (out of memory, read-only, loading), so no record can be stored while an older
one of its stream is not, and an id that is "equal or smaller" can only mean that the record is
stored already. Without an answer the same transaction is sent again.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from itertools import islice

import structlog

from services.common.errors import BrokerClosed, BrokerUnavailable, RecordTooLarge
from services.common.stream.broker import LogSpec, Publisher, PublisherStats, Record
from services.common.stream.redis_client import Command, RedisClient, refusal
from services.common.stream.redis_records import Names, Source, entry_id, fields_of
from services.common.stream.worker import Worker, backoff_s
from services.common.subjects import log_of

log = structlog.get_logger(__name__)

_BATCH = 512
_BATCH_BYTES = 8 * 1024 * 1024
# Redis' own default limit of one bulk string.
_MAX_RECORD = 512 * 1024 * 1024
# How many (time, id) marks a stream has inside its retention; trimming is exact to one of them.
_MARKS = 20


@dataclass(slots=True)
class _InFlight:
    ticket: int
    record: Record
    source: Source
    size: int
    sends: int = 0


class RedisPublisher(Worker, Publisher):
    """See `Publisher`.

    Args:
        client: this publisher's own connections; closed with it.
        names: the keys.
        specs: of the logs that were ensured.
        prepare: makes sure that a log exists; returns its epoch and the streams it holds.
        max_records: B2.
        max_bytes: B2.
    """

    def __init__(
        self,
        client: RedisClient,
        names: Names,
        *,
        specs: Mapping[str, LogSpec],
        prepare: Callable[[RedisClient, str], Awaitable[tuple[int, set[Source]]]],
        max_records: int,
        max_bytes: int,
    ) -> None:
        super().__init__("publisher")
        self._client = client
        self._names = names
        self._specs = specs
        self._prepare = prepare
        self._max_records = max_records
        self._max_bytes = max_bytes
        self._window: deque[_InFlight] = deque()
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._bytes = 0
        self._sent = self._duplicates = self._retried = self._horizon = self._waits = 0
        self._epochs: dict[str, int] = {}
        self._announced: set[Source] = set()
        self._marked: dict[Source, float] = {}
        self._wake = asyncio.Event()
        self.start(self._run())

    async def send(self, record: Record) -> int:
        while (ticket := self.offer(record)) is None:
            await self.changed.wait()
        return ticket

    def offer(self, record: Record) -> int | None:
        self.check_open()
        size = len(record.payload)
        if size > _MAX_RECORD:
            raise RecordTooLarge(record.subject, size, _MAX_RECORD)
        epoch, seq, sub = record.position
        if seq == 0 and sub == 0:
            raise ValueError(f"{record.subject}: Redis has no entry id 0-0; count sub from 1")
        log_of(record.subject)
        if self._window and (
            len(self._window) >= self._max_records or self._bytes + size > self._max_bytes
        ):
            return None
        self._sent += 1
        self._window.append(_InFlight(self._sent, record, Source(record.subject, epoch), size))
        self._bytes += size
        self._wake.set()
        return self._sent

    async def durable(self, ticket: int) -> None:
        if ticket <= self._horizon:
            return
        self.check_open()
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waits += 1
        heapq.heappush(self._waiting, (ticket, self._waits, waiter))
        await waiter

    def stats(self) -> PublisherStats:
        return PublisherStats(
            sent=self._sent,
            stored=self._horizon - self._duplicates,
            duplicates=self._duplicates,
            retried=self._retried,
            in_flight=len(self._window),
            bytes_in_flight=self._bytes,
        )

    async def aclose(self) -> None:
        await super().aclose()
        await self._client.aclose()

    def _ended(self, task: asyncio.Task[None]) -> None:
        super()._ended(task)
        for _, _, waiter in self._waiting:
            if not waiter.done():
                waiter.set_exception(BrokerClosed(self.what))
        self._waiting.clear()

    # ------------------------------------------------------------------ sending

    async def _run(self) -> None:
        attempt = 0
        while True:
            self._wake.clear()
            if not self._window:
                await self._wake.wait()
            try:
                await self._store()
            except BrokerUnavailable as error:
                # The server may have come back empty: look at everything again.
                self._epochs.clear()
                self._announced.clear()
                log.warning(
                    "publisher_interrupted",
                    reason=error.reason,
                    in_flight=len(self._window),
                    attempt=attempt,
                )
                await asyncio.sleep(backoff_s(attempt))
                attempt += 1
            else:
                attempt = 0

    async def _store(self) -> None:
        items: list[_InFlight] = []
        size = 0
        for item in islice(self._window, _BATCH):
            if items and size + item.size > _BATCH_BYTES:
                break
            items.append(item)
            size += item.size
        logs = list(dict.fromkeys(log_of(item.record.subject) for item in items))
        for name in logs:
            if name not in self._epochs:
                self._epochs[name], held = await self._prepare(self._client, name)
                self._announced |= held
        commands: list[Command] = [("GET", self._names.epoch(name)) for name in logs]
        adds: list[int] = []
        fresh: set[Source] = set()
        now = time.time()
        for item in items:
            source = item.source
            self._retried += item.sends > 0
            item.sends += 1
            if source not in self._announced and source not in fresh:
                fresh.add(source)
                registry = self._names.registry(log_of(source.subject))
                commands.append(("XADD", registry, "*", "s", source.subject, "e", source.epoch))
            adds.append(len(commands))
            identity = entry_id(item.record.position)
            key = self._names.stream(*source)
            commands.append(("XADD", key, identity, *fields_of(item.record)))
            if now - self._marked.get(source, 0.0) >= self._mark_every(source.subject):
                self._marked[source] = now
                commands.append(("ZADD", self._names.marks(*source), now, identity))
        answers = await self._client.transact(commands)
        self._announced |= fresh
        for name, answer in zip(logs, answers, strict=False):
            if answer is None or int(answer) != self._epochs[name]:
                await self._announce_again(name, {item.source for item in items})
        self._take(items, [answers[index] for index in adds])

    async def _announce_again(self, name: str, sources: set[Source]) -> None:
        """The log is another one than before: the server was emptied behind our back."""
        self._epochs[name], held = await self._prepare(self._client, name)
        self._announced = {s for s in self._announced if log_of(s.subject) != name} | held
        missing = sorted(s for s in sources - held if log_of(s.subject) == name)
        registry = self._names.registry(name)
        commands = [("XADD", registry, "*", "s", s.subject, "e", s.epoch) for s in missing]
        if commands:
            await self._client.transact(commands)
            self._announced.update(missing)

    def _mark_every(self, subject: str) -> float:
        spec = self._specs.get(log_of(subject))
        return 60.0 if spec is None else spec.retention_s / _MARKS

    def _take(self, items: list[_InFlight], answers: list[object]) -> None:
        for item, answer in zip(items, answers, strict=True):
            text = refusal(answer)
            if text is not None:
                if "equal or smaller" not in text:
                    raise BrokerUnavailable(self._client.target, f"not stored: {text}")
                self._duplicates += 1
            self._window.popleft()
            self._bytes -= item.size
            self._horizon = item.ticket
        while self._waiting and self._waiting[0][0] <= self._horizon:
            waiter = heapq.heappop(self._waiting)[2]
            if not waiter.done():
                waiter.set_result(None)
        self.changed.ring()
