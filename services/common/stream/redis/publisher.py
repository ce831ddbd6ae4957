"""The pipelined Redis publisher.

One round trip at a time, of up to 512 records in order; the next fills up meanwhile. The records of
each log are one call of a script. It writes nothing when the log is not the one that was prepared,
announces new streams together with their first record, and ends at the first write that fails. So
no record is stored while an older one of its stream is not. An id that is "equal or smaller" is
looked for: it is there, or it was trimmed, or it is lost, as somebody stored a newer one before it.
Without an answer the same records are sent again.
After any trouble, what was acknowledged of late is sent first, in case the log went back (see
`history`); for that a lost connection must not be replaced unseen, so the client is a sticky one.
(A script, and not MULTI, because it takes the client a third of the time.)
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from itertools import islice

import msgspec
import structlog

from services.common.errors import BrokerUnavailable, RecordRefused, RecordTooLarge
from services.common.resilience.backoff import delay_s
from services.common.stream.broker import (
    LogSpec,
    OnRefused,
    Publisher,
    PublisherStats,
    Record,
)
from services.common.stream.publish_window import PublishWindow
from services.common.stream.record_bounds import check_record
from services.common.stream.redis.client import Command, RedisClient, refusal
from services.common.stream.redis.packing import Packed, pack, pack_record
from services.common.stream.redis.records import Names, Source, entry_id, trimmed_id
from services.common.stream.unsynced_records import History
from services.common.stream.worker import Worker, worth_saying
from services.common.subjects import log_of

log = structlog.get_logger(__name__)

_BATCH = 512
_BATCH_BYTES = 8 * 1024 * 1024
# Redis' own default limit of one bulk string, where it does not tell another.
_MAX_RECORD = 512 * 1024 * 1024
# How many (time, id) marks a stream has inside its retention; trimming is exact to one of them.
_MARKS = 20
# For a log somebody else ensured.
_DEFAULT_RETENTION_S = 1200.0
# An idle publisher looks this often whether its connection, and so the log's end, still stands.
_LOOK_S = 1.0
# Windows of acknowledged records that are kept.
_KEPT_WINDOWS = 4

# KEYS: epoch, registry, hash of trimmed ids, streams. ARGV: expected epoch, time, number of
# announcements and of marks; then (subject, epoch), (marks key, id), and (number of the stream's
# key, id, payload, headers).
# Answers how many records were refused as "equal or smaller", or -1 when the log is another one, or
# its registry was lost (evicted, deleted);
# where some of those are not in their stream, a list: that number, and for each of them its number
# among the records and the newest id that was trimmed from its stream. A list of -2, a record's
# number and an error: everything before that record is there, and it is refused.
_STORE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return -1 end
-- Nobody would find what is written while nothing is announced.
if ARGV[3] == '0' and redis.call('XLEN', KEYS[2]) == 0 then return -1 end
local at = 5
for _ = 1, tonumber(ARGV[3]) do
  redis.call('XADD', KEYS[2], '*', 's', ARGV[at], 'e', ARGV[at + 1])
  at = at + 2
end
for _ = 1, tonumber(ARGV[4]) do
  -- Without its mark a stream is trimmed later; that must not stop the others.
  redis.pcall('ZADD', ARGV[at], ARGV[2], ARGV[at + 1])
  at = at + 2
end
local known, absent, number = 0, {}, 0
while at <= #ARGV do
  local key, id, headers, done = KEYS[tonumber(ARGV[at])], ARGV[at + 1], ARGV[at + 3], nil
  if headers == '' then
    done = redis.pcall('XADD', key, id, 'p', ARGV[at + 2])
  else
    done = redis.pcall('XADD', key, id, 'p', ARGV[at + 2], 'h', headers)
  end
  if type(done) == 'table' and done.err then
    if not string.find(done.err, 'equal or smaller', 1, true) then
      return {-2, number, done.err}
    end
    known = known + 1
    if #redis.call('XRANGE', key, id, id) == 0 then
      absent[#absent + 1] = number
      absent[#absent + 1] = redis.call('HGET', KEYS[3], key) or ''
    end
  end
  at = at + 4
  number = number + 1
end
if #absent == 0 then return known end
table.insert(absent, 1, known)
return absent
"""


# Refusals that are the server's condition, and pass: of memory, disk, replication, start, rights
# (these also in the words of a script, which has only ERR for them).
# Any other is about the record's own key and id (WRONGTYPE, no id left, ...), and does not.
_PASSES = re.compile(
    r"OOM|MISCONF|READONLY|NOREPLICAS|MASTERDOWN|LOADING|BUSY|UNKILLABLE|CLUSTERDOWN|TRYAGAIN|MOVED"
    r"|ASK|CROSSSLOT|NOAUTH|NOPERM|NOSCRIPT|WRONGPASS"
    r"|.*(?:ACL failure|no permission|user executing the script)"
)


class _Refusal(Exception):
    """The server will never store this one; everything before it is stored."""

    def __init__(self, item: _InFlight, text: str) -> None:
        self.item = item
        self.text = text
        super().__init__(text)


class _InFlight(msgspec.Struct, gc=False, eq=False):
    record: Record
    source: Source
    size: int
    ticket: int = 0
    taken_at: float = 0.0
    sends: int = 0
    # It stands where one was that the server refused; or it is refused and not sent any more.
    replaced: bool = False
    refused: bool = False


class RedisPublisher(Worker, Publisher):
    """See `Publisher`.

    Args:
        client: this publisher's own connections; closed with it.
        names: the keys.
        specs: of the logs that were ensured.
        prepare: makes sure that a log exists; returns its epoch and the streams it holds.
        max_records: B2.
        max_bytes: B2.
        on_refused: see `OnRefused`.
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
        on_refused: OnRefused | None,
    ) -> None:
        super().__init__("publisher")
        self._on_refused = on_refused
        self._limit = _MAX_RECORD
        self._client = client
        self._names = names
        self._specs = specs
        self._prepare = prepare
        self._window = PublishWindow[_InFlight](max_records, max_bytes, time.monotonic)
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
        check_record(record)
        size = len(record.payload)
        if size > self._limit:
            raise RecordTooLarge(record.subject, size, self._limit)
        epoch = record.position.epoch
        if not self._window.has_room(size):
            return None
        source = self._sources.get(record.subject)
        if source is None or source.epoch != epoch:
            source = self._sources[record.subject] = Source(record.subject, epoch)
        self._wake.set()
        return self._window.take(_InFlight(record, source, size))

    async def durable(self, ticket: int) -> None:
        if ticket > self._window.horizon:
            self.check_open()
            await self._window.done(ticket)

    def stats(self) -> PublisherStats:
        return self._window.stats()

    async def aclose(self) -> None:
        await super().aclose()
        await self._client.aclose()

    def _end(self) -> None:
        super()._end()
        self._window.end(self.why_ended)

    # ------------------------------------------------------------------ sending

    async def _run(self) -> None:
        attempt = 0
        doubtful = False
        limit_known = False
        while True:
            self._wake.clear()
            try:
                if not limit_known:
                    await self._find_limit()
                    limit_known = True
                if doubtful:
                    # That works on a server that stores nothing; so it ends no backoff.
                    await self._restore()
                    doubtful = False
                    continue
                if self._window.items:
                    await self._store()
                else:
                    await self._idle()
            except BrokerUnavailable as error:
                # The server may have come back empty, or with less: look at everything again.
                doubtful = True
                limit_known = False
                self._epochs.clear()
                self._announced.clear()
                self._window.trouble = error.reason
                say = log.warning if worth_saying(attempt) else log.debug
                say(
                    "publisher_interrupted",
                    reason=error.reason,
                    in_flight=len(self._window),
                    attempt=attempt,
                )
                await asyncio.sleep(delay_s(attempt))
                attempt += 1
            else:
                attempt = 0

    async def _find_limit(self) -> None:
        """Ask how large a record may be: one that is larger would only lose us the connection."""
        await self._client.renew()
        [answer] = await self._client.batch([("CONFIG GET", "proto-max-bulk-len")])
        if refusal(answer) or not answer:
            # Managed servers do not tell; they have the default.
            return
        self._limit = int(dict(answer).get("proto-max-bulk-len", _MAX_RECORD))
        for item in self._window.items:
            if item.size > self._limit and not (item.refused or item.replaced):
                error = RecordTooLarge(item.record.subject, item.size, self._limit)
                self._give_up(item, error)

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
                    _InFlight(record, Source(record.subject, record.position.epoch), 0)
                    for record in records[start : start + _BATCH]
                ]
                fresh: list[Source] = []
                command = self._command(name, items, fresh, time.time())
                [answer] = await self._client.batch([command])
                try:
                    known, gone = self._judged(name, items, answer)
                except _Refusal as refused:
                    record = refused.item.record
                    self._history.forget([record])
                    self._window.say_lost(name, [record])
                    raise BrokerUnavailable(self._client.target, refused.text) from refused
                restored -= known + len(gone)
                self._announced.update(fresh)
                self._history.forget([item.record for item in gone])
                self._say_lost(name, gone)
            if restored:
                log.warning("log_tail_written_again", log=name, records=restored)

    async def _store(self) -> None:
        items = self._next_items()
        by_log: dict[str, list[_InFlight]] = {}
        for item in items:
            if item.refused:
                continue
            name = log_of(item.record.subject)
            part = by_log.get(name)
            if part is None:
                part = by_log[name] = []
            part.append(item)
            if item.sends:
                self._window.retried += 1
            item.sends += 1
        fresh: list[Source] = []
        commands: list[Command] = []
        now = time.time()
        for name, part in by_log.items():
            if name not in self._epochs:
                self._epochs[name], held = await self._prepare(self._client, name)
                self._announced |= held
            commands.append(self._command(name, part, fresh, now))
        answers = await self._client.batch(commands)
        # What one log refused is sent again with all of these; that the others have theirs is then
        # seen by the ids.
        try:
            judged = [
                self._judged(name, part, answer)
                for (name, part), answer in zip(by_log.items(), answers, strict=True)
            ]
        except _Refusal as refused:
            # Without it, or with what stands in its place, all of these are sent again.
            record = refused.item.record
            self._give_up(refused.item, RecordRefused(record.subject, refused.text))
            return
        self._announced.update(fresh)
        lost = {item.ticket for item in items if item.refused}
        for (name, part), (known, gone) in zip(by_log.items(), judged, strict=True):
            self._window.stored += len(part) - known - len(gone)
            self._window.duplicates += known
            self._say_lost(name, gone)
            lost.update(item.ticket for item in gone)
        self._take(items, lost)

    def _judged(
        self, name: str, items: Sequence[_InFlight], answer: object
    ) -> tuple[int, list[_InFlight]]:
        """How many of these were stored before, and which are lost.

        Raises:
            BrokerUnavailable: not all of them were written.
        """
        text = refusal(answer)
        if text is not None:
            raise BrokerUnavailable(self._client.target, f"not stored: {text}")
        if isinstance(answer, int) and answer >= 0:
            return answer, []
        if not isinstance(answer, list):
            raise BrokerUnavailable(self._client.target, f"log {name} was replaced")
        if answer[0] == -2:
            reason = answer[2].decode(errors="replace")
            if _PASSES.match(reason):
                raise BrokerUnavailable(self._client.target, f"not stored: {reason}")
            raise _Refusal(items[answer[1]], reason)
        known, *absent = answer
        gone = []
        for number, trimmed in zip(absent[::2], absent[1::2], strict=True):
            item = items[number]
            if item.record.position[1:] > trimmed_id(trimmed):
                gone.append(item)
        return known - len(gone), gone

    def _give_up(self, item: _InFlight, error: RecordRefused) -> None:
        instead = None
        if not item.replaced:
            instead = self._window.say_refused(item.record, error, self._on_refused)
        if instead is None:
            item.refused = True
        else:
            item.record, item.replaced = instead, True

    def _say_lost(self, name: str, items: Sequence[_InFlight]) -> None:
        if items:
            self._window.say_lost(name, [item.record for item in items])

    def _next_items(self) -> list[_InFlight]:
        items: list[_InFlight] = []
        size = 0
        for item in islice(self._window.items, _BATCH):
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
        number = {source: pack((index,)) for index, source in enumerate(sources, 4)}
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
            *("EVAL", _STORE, 3 + len(sources)),
            *(self._names.epoch(name), self._names.registry(name), self._names.trimmed(name)),
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

    def _take(self, items: Sequence[_InFlight], lost: Set[int]) -> None:
        """The server has these but for the lost ones; they are the oldest of the window."""
        now = time.monotonic()
        for item in items:
            self._window.let_go()
            if item.ticket not in lost:
                epoch = self._epochs[log_of(item.record.subject)]
                self._history.add(item.record, item.size, epoch, now)
        self._window.release()
        self.changed.ring()
