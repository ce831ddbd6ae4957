"""The pipelined Redis publisher.

One round trip at a time, of up to 512 records in order; the next fills up meanwhile. The records of
each log are one call of a script. It writes nothing when the log is not the one that was prepared,
announces new streams together with their first record, and ends at the first write that fails. So
no record is stored while an older one of its stream is not. An id that is "equal or smaller" is
looked for: it is there, or it was trimmed, or it is lost, as somebody stored a newer one before it.
Without an answer the same records are sent again.
After any trouble, what was acknowledged of late is sent first, in case the log went back (see
`unsynced_records.py`); for that a lost connection must not be replaced unseen, so the client is a
sticky one. Where others publish to the same subjects too, nothing is sent above what is missing of
theirs (see `holes.py`): they have a moment to send it, then this publisher ends.
(A script, and not MULTI, because it takes the client a third of the time.)
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from itertools import islice

import structlog

from services.common.errors import BrokerUnavailable, LogWentBack, RecordRefused
from services.common.resilience import delay_s
from services.common.stream.broker_base import PublisherBase, PublisherOptions, retention_s
from services.common.stream.proof import Proof
from services.common.stream.records import Position, Record
from services.common.stream.redis.client import Command, RedisClient, refusal
from services.common.stream.redis.logs import Logs
from services.common.stream.redis.records import Source, parse_id
from services.common.stream.redis.store_script import Refusal, Sent, StoreScript, read_answer
from services.common.stream.worker import wait_for
from services.common.subjects import log_of

log = structlog.get_logger(__name__)

_BATCH = 512
_BATCH_BYTES = 8 * 1024 * 1024
# Redis' own default limit of one bulk string, where it does not tell another.
_MAX_RECORD = 512 * 1024 * 1024
# An idle publisher looks this often whether its connection, and so the log's end, still stands.
_LOOK_S = 1.0
# How often a hole is looked at again before somebody else has to fill it.
_PATIENCE = 5


class RedisPublisher(PublisherBase[Sent]):
    """See `Publisher`. The client is its own, closed with it."""

    def __init__(self, client: RedisClient, logs: Logs, options: PublisherOptions) -> None:
        super().__init__(options, _MAX_RECORD)
        self._client = client
        self._logs = logs
        self._script = StoreScript(logs)
        self._proof = Proof[Source, Sent](
            options.predecessor, lambda item: item.source, self._newest_of
        )
        # The last one of each subject.
        self._sources: dict[str, Source] = {}
        self.start(self._run())

    def _in_flight(self, record: Record) -> Sent:
        epoch = record.position.epoch
        source = self._sources.get(record.subject)
        if source is None or source.epoch != epoch:
            source = self._sources[record.subject] = Source(record.subject, epoch)
        return Sent(record, len(record.payload), source=source)

    async def aclose(self) -> None:
        await super().aclose()
        await self._client.aclose()

    # ------------------------------------------------------------------ sending

    async def _run(self) -> None:
        attempt = holes = 0
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
            except LogWentBack:
                # Whoever wrote what is missing may be about to write it again.
                if holes == _PATIENCE:
                    raise
                doubtful = True
                await asyncio.sleep(delay_s(holes))
                holes += 1
            except BrokerUnavailable as error:
                # The server may have come back empty, or with less: look at everything again.
                doubtful = True
                limit_known = False
                self._script.forget()
                self._proof.doubt()
                self._say_interrupted(error, attempt)
                await asyncio.sleep(delay_s(attempt))
                attempt += 1
            else:
                attempt = holes = 0

    async def _find_limit(self) -> None:
        """Ask how large a record may be: one that is larger would only lose us the connection."""
        await self._client.renew()
        [answer] = await self._client.batch([("CONFIG GET", "proto-max-bulk-len")])
        if refusal(answer) or not answer:
            # Managed servers do not tell; they have the default.
            return
        self._limit = int(dict(answer).get("proto-max-bulk-len", _MAX_RECORD))
        self._give_up_too_large()

    async def _idle(self) -> None:
        if not await wait_for(self._wake, _LOOK_S if self._unsynced else None):
            await self._client.call("PING")

    async def _restore(self) -> None:
        """Write again what the log has lost of what it had acknowledged.

        Raises:
            LogWentBack: some of it stood on what somebody else wrote, and that is lost too.
        """
        await self._client.renew()
        script = self._script
        first_hole: LogWentBack | None = None
        for name in self._unsynced.logs():
            await script.prepare(self._client, name)
            kept_s = retention_s(self._logs.specs, name)
            records = self._unsynced.of(name, script.epochs[name], kept_s, time.monotonic())
            restored = 0
            for start in range(0, len(records), _BATCH):
                items = [
                    Sent(record, 0, source=Source(record.subject, record.position.epoch))
                    for record in records[start : start + _BATCH]
                ]
                self._proof.doubt()
                items, hole = await self._proof.sort_out(items)
                first_hole = first_hole or hole
                if not items:
                    continue
                fresh: list[Source] = []
                [answer] = await self._client.batch([script.command(name, items, fresh)])
                try:
                    known, gone = read_answer(self._client.target, name, items, answer)
                except Refusal as refused:
                    record = refused.item.record
                    self._unsynced.forget([record])
                    self._window.say_lost(name, [record])
                    raise BrokerUnavailable(self._client.target, refused.text) from refused
                restored += len(items) - known - len(gone)
                script.announced.update(fresh)
                self._unsynced.forget([item.record for item in gone])
                self._say_lost(name, gone)
            if restored:
                log.warning("log_tail_written_again", log=name, records=restored)
        # What waits may follow what somebody else wrote behind these.
        self._proof.doubt()
        if first_hole is not None:
            raise first_hole

    async def _newest_of(self, sources: Sequence[Source]) -> Mapping[Source, Position | None]:
        names = self._logs.names
        asked = [("XINFO STREAM", names.stream(source)) for source in sources]
        newest: dict[Source, Position | None] = {}
        for source, answer in zip(sources, await self._client.batch(asked), strict=True):
            text = refusal(answer)
            if text is None:
                newest[source] = Position(source.epoch, *parse_id(answer["last-generated-id"]))
            elif "no such key" in text:
                newest[source] = None
        return newest

    async def _store(self) -> None:
        items = self._next_items()
        by_log: dict[str, list[Sent]] = {}
        for item in items:
            if item.lost:
                continue
            name = log_of(item.record.subject)
            part = by_log.get(name)
            if part is None:
                part = by_log[name] = []
            part.append(item)
            if item.sends:
                self._window.retried += 1
            item.sends += 1
        await self._proof.check([item for part in by_log.values() for item in part])
        script = self._script
        fresh: list[Source] = []
        commands: list[Command] = []
        for name, part in by_log.items():
            if name not in script.epochs:
                await script.prepare(self._client, name)
            commands.append(script.command(name, part, fresh))
        answers = await self._client.batch(commands)
        # What one log refused is sent again with all of these; that the others have theirs is then
        # seen by the ids.
        try:
            judged = [
                read_answer(self._client.target, name, part, answer)
                for (name, part), answer in zip(by_log.items(), answers, strict=True)
            ]
        except Refusal as refused:
            # Without it, or with what stands in its place, all of these are sent again.
            record = refused.item.record
            self._give_up(refused.item, RecordRefused(record.subject, refused.text))
            return
        script.announced.update(fresh)
        for (name, part), (known, gone) in zip(by_log.items(), judged, strict=True):
            self._window.stored += len(part) - known - len(gone)
            self._window.duplicates += known
            self._say_lost(name, gone)
        self._let_go(items)

    def _say_lost(self, name: str, items: Sequence[Sent]) -> None:
        for item in items:
            item.lost = True
        if items:
            self._window.say_lost(name, [item.record for item in items])

    def _next_items(self) -> list[Sent]:
        items: list[Sent] = []
        size = 0
        for item in islice(self._window.items, _BATCH):
            if items and size + item.size > _BATCH_BYTES:
                break
            items.append(item)
            size += item.size
        return items

    def _let_go(self, items: Sequence[Sent]) -> None:
        """The server has these but for the lost ones; they are the oldest of the window."""
        now = time.monotonic()
        for item in items:
            self._window.pop_oldest()
            if not item.lost:
                epoch = self._script.epochs[log_of(item.record.subject)]
                self._unsynced.add(item.record, item.size, epoch, now)
        self._window.wake_done()
        self.changed.ring()
