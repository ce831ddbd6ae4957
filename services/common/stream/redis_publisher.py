"""The pipelined Redis publisher.

One round trip at a time, of up to 512 records in order; the next fills up meanwhile. The records of
each log are one call of a script. It writes nothing when the log is not the one that was prepared,
announces new streams together with their first record, and ends at the first write that fails. So
no record is stored while an older one of its stream is not, and an id that is "equal or smaller"
can only mean that the record is stored already. Without an answer the same records are sent again.
After any trouble, what was acknowledged of late is sent first, in case the log went back (see
`history`); for that a lost connection must not be replaced unseen, so the client is a sticky one.
(A script, and not MULTI, because it takes the client a third of the time.)
"""

from __future__ import annotations

import asyncio
import heapq
import json
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from itertools import islice

import msgspec
import structlog

from services.common.errors import BrokerUnavailable, RecordTooLarge
from services.common.stream.broker import LogSpec, Publisher, PublisherStats, Record
from services.common.stream.history import History
from services.common.stream.redis_client import Command, RedisClient, refusal
from services.common.stream.redis_packing import Packed, pack, pack_record
from services.common.stream.redis_records import Names, Source, entry_id
from services.common.stream.worker import Worker, backoff_s
from services.common.subjects import log_of

log = structlog.get_logger(__name__)

_BATCH = 512
_BATCH_BYTES = 8 * 1024 * 1024
# Redis' own default limit of one bulk string.
_MAX_RECORD = 512 * 1024 * 1024
# How many (time, id) marks a stream has inside its retention; trimming is exact to one of them.
_MARKS = 20
# For a log somebody else ensured.
_DEFAULT_RETENTION_S = 1200.0
# An idle publisher looks this often whether its connection, and so the log's end, still stands.
_LOOK_S = 1.0
# Windows of acknowledged records that are kept.
_KEPT_WINDOWS = 4

# KEYS: epoch, registry, streams. ARGV: expected epoch, time, number of announcements and of marks;
# then (subject, epoch), (marks key, id), and (number of the stream's key, id, payload, headers).
# Answers how many records were duplicates, or -1 when the log is another one.
_STORE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return -1 end
local at = 5
for _ = 1, tonumber(ARGV[3]) do
  redis.call('XADD', KEYS[2], '*', 's', ARGV[at], 'e', ARGV[at + 1])
  at = at + 2
end
for _ = 1, tonumber(ARGV[4]) do
  redis.call('ZADD', ARGV[at], ARGV[2], ARGV[at + 1])
  at = at + 2
end
local duplicates = 0
while at <= #ARGV do
  local key, id, headers, done = KEYS[tonumber(ARGV[at])], ARGV[at + 1], ARGV[at + 3], nil
  if headers == '' then
    done = redis.pcall('XADD', key, id, 'p', ARGV[at + 2])
  else
    done = redis.pcall('XADD', key, id, 'p', ARGV[at + 2], 'h', headers)
  end
  if type(done) == 'table' and done.err then
    if not string.find(done.err, 'equal or smaller', 1, true) then return done end
    duplicates = duplicates + 1
  end
  at = at + 4
end
return duplicates
"""


class _InFlight(msgspec.Struct, gc=False, eq=False):
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
        # The last one of each subject.
        self._sources: dict[str, Source] = {}
        self._history = History(_KEPT_WINDOWS * max_records, max_bytes)
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
        source = self._sources.get(record.subject)
        if source is None or source.epoch != epoch:
            source = self._sources[record.subject] = Source(record.subject, epoch)
        self._sent += 1
        self._window.append(_InFlight(self._sent, record, source, size))
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

    def _end(self) -> None:
        super()._end()
        for _, _, waiter in self._waiting:
            if not waiter.done():
                waiter.set_exception(self.why_ended())
        self._waiting.clear()

    # ------------------------------------------------------------------ sending

    async def _run(self) -> None:
        attempt = 0
        doubtful = False
        while True:
            self._wake.clear()
            try:
                if doubtful:
                    await self._restore()
                    doubtful = False
                elif self._window:
                    await self._store()
                else:
                    await self._idle()
            except BrokerUnavailable as error:
                # The server may have come back empty, or with less: look at everything again.
                doubtful = True
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

    async def _idle(self) -> None:
        try:
            async with asyncio.timeout(_LOOK_S if self._history else None):
                await self._wake.wait()
        except TimeoutError:
            await self._client.call("PING")

    async def _restore(self) -> None:
        """Write again what the log has lost of what it had acknowledged."""
        await self._client.renew()
        for name in self._history.logs():
            epoch, held = await self._prepare(self._client, name)
            self._epochs[name] = epoch
            self._announced |= held
            records = self._history.of(name, epoch, self._retention_s(name), time.monotonic())
            restored = len(records)
            for start in range(0, len(records), _BATCH):
                items = [
                    _InFlight(0, record, Source(record.subject, record.position.epoch), 0)
                    for record in records[start : start + _BATCH]
                ]
                fresh: list[Source] = []
                command = self._command(name, items, fresh, time.time())
                restored -= self._duplicates_of(name, *await self._client.batch([command]))
                self._announced.update(fresh)
            if restored:
                log.warning("log_tail_written_again", log=name, records=restored)

    async def _store(self) -> None:
        items = self._next_items()
        by_log: dict[str, list[_InFlight]] = {}
        for item in items:
            name = log_of(item.record.subject)
            part = by_log.get(name)
            if part is None:
                part = by_log[name] = []
            part.append(item)
            if item.sends:
                self._retried += 1
            item.sends += 1
        fresh: list[Source] = []
        commands: list[Command] = []
        now = time.time()
        for name, part in by_log.items():
            if name not in self._epochs:
                self._epochs[name], held = await self._prepare(self._client, name)
                self._announced |= held
            commands.append(self._command(name, part, fresh, now))
        for name, answer in zip(by_log, await self._client.batch(commands), strict=True):
            self._duplicates += self._duplicates_of(name, answer)
        self._announced.update(fresh)
        self._take(items)

    def _duplicates_of(self, name: str, answer: object) -> int:
        text = refusal(answer)
        if text is not None:
            raise BrokerUnavailable(self._client.target, f"not stored: {text}")
        if not isinstance(answer, int) or answer < 0:
            raise BrokerUnavailable(self._client.target, f"log {name} was replaced")
        return answer

    def _next_items(self) -> list[_InFlight]:
        items: list[_InFlight] = []
        size = 0
        for item in islice(self._window, _BATCH):
            if items and size + item.size > _BATCH_BYTES:
                break
            items.append(item)
            size += item.size
        return items

    def _command(
        self, name: str, items: list[_InFlight], fresh: list[Source], now: float
    ) -> Command:
        """The script call that stores `items` of one log; `fresh` gets what it announces."""
        sources = list(dict.fromkeys([item.source for item in items]))
        number = {source: pack((index,)) for index, source in enumerate(sources, 3)}
        announce = [source for source in sources if source not in self._announced]
        fresh += announce
        due = now - self._retention_s(name) / _MARKS
        unmarked = {source for source in sources if self._marked.get(source, 0.0) <= due}
        marks: list[str] = []
        records: list[bytes] = []
        for item in items:
            record, source = item.record, item.source
            identity = entry_id(record.position)
            if source in unmarked:
                unmarked.discard(source)
                self._marked[source] = now
                marks += (self._names.marks(*source), identity)
            headers = json.dumps(dict(record.headers)).encode() if record.headers else b""
            records.append(pack_record(number[source], identity.encode(), record.payload, headers))
        arguments: list[str | float] = [
            *("EVAL", _STORE, 2 + len(sources)),
            *(self._names.epoch(name), self._names.registry(name)),
            *(self._names.stream(*source) for source in sources),
            *(self._epochs[name], now, len(announce), len(marks) // 2),
            *(part for source in announce for part in source),
            *marks,
        ]
        count = len(arguments) + 4 * len(items)
        return ("EVAL", Packed(count, pack(arguments), *records))

    def _retention_s(self, name: str) -> float:
        spec = self._specs.get(name)
        return _DEFAULT_RETENTION_S if spec is None else spec.retention_s

    def _take(self, items: list[_InFlight]) -> None:
        """The server has these, the oldest of the window."""
        now = time.monotonic()
        for item in items:
            self._window.popleft()
            self._bytes -= item.size
            self._horizon = item.ticket
            epoch = self._epochs[log_of(item.record.subject)]
            self._history.add(item.record, item.size, epoch, now)
        while self._waiting and self._waiting[0][0] <= self._horizon:
            waiter = heapq.heappop(self._waiting)[2]
            if not waiter.done():
                waiter.set_result(None)
        self.changed.ring()
