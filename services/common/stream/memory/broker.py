"""MemoryBroker: the whole contract inside one process, for tests and for single-process use.

`MemoryServer` stands for the server: brokers that are given the same one see the same logs, and it
can be stopped, started and emptied. Nothing survives the process.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

import msgspec

from services.common.errors import (
    BrokerClosed,
    BrokerFailed,
    BrokerUnavailable,
    RecordTooLarge,
)
from services.common.stream.broker import (
    Broker,
    Capabilities,
    GroupSubscription,
    LiveBatch,
    LiveSubscription,
    LogSpec,
    Message,
    OnRefused,
    Page,
    Position,
    Publisher,
    PublisherStats,
    Record,
)
from services.common.stream.memory.log import MemoryGroup, MemoryLog, StoredRecord
from services.common.stream.publish_window import PublishWindow
from services.common.stream.record_bounds import check_record
from services.common.stream.storing import Storing, storing
from services.common.stream.worker import Bell
from services.common.subjects import log_of

_LIVE_BATCH = 1024


class MemoryServer:
    """The logs that memory brokers share.

    Args:
        clock: seconds; only differences count.
        max_payload: largest record taken, bytes.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        max_payload: int = 8 * 1024 * 1024,
    ) -> None:
        self.clock = clock
        self.max_payload = max_payload
        self.running = True
        self.bell = Bell()
        self._logs: dict[str, MemoryLog] = {}
        self._newest_epoch = 0
        self._resume: list[Callable[[], None]] = []

    def start(self) -> None:
        self.running = True
        self._changed()
        self.bell.ring()

    def when_changed(self, resume: Callable[[], None]) -> None:
        """Call `resume` once: at the next `start`, or when a log is made."""
        self._resume.append(resume)

    def _changed(self) -> None:
        waiting, self._resume = self._resume, []
        for resume in waiting:
            resume()

    def stop(self) -> None:
        """Answer nobody until `start`."""
        self.running = False

    def wipe(self) -> None:
        """Lose every log, as a server that comes back with an empty disk."""
        self._logs.clear()
        self.bell.ring()

    def ensure(self, spec: LogSpec) -> MemoryLog:
        log = self._logs.get(spec.log)
        if log is None:
            self._newest_epoch = max(self._newest_epoch + 1, time.time_ns() // 1000)
            log = self._logs[spec.log] = MemoryLog(spec, self._newest_epoch)
            self._changed()
        log.spec = spec
        return log

    def log(self, name: str) -> MemoryLog | None:
        return self._logs.get(name)


class MemoryBroker(Broker):
    capabilities = Capabilities(durable=False, live_may_miss=False, duplicate_window=False)

    def __init__(self, server: MemoryServer | None = None) -> None:
        self.server = server or MemoryServer()
        self.closed = False
        self._specs: dict[str, LogSpec] = {}
        self._publishers: list[MemoryPublisher] = []

    async def open(self) -> None:
        while not self.server.running:
            await self.server.bell.wait()

    async def aclose(self) -> None:
        self.closed = True
        self.server.bell.ring()

    async def ensure(self, specs: Sequence[LogSpec]) -> None:
        self.check_answers()
        for spec in specs:
            self._specs[spec.log] = spec
            self.server.ensure(spec)

    async def ping(self) -> None:
        self.check_answers()
        self.check_storing()

    def storing(self) -> Storing:
        return storing(held.stats() for held in self._publishers if not held.ended)

    async def publisher(
        self,
        *,
        max_records: int = 4096,
        max_bytes: int = 32 * 1024 * 1024,
        on_refused: OnRefused | None = None,
    ) -> Publisher:
        self.check_open()
        publisher = MemoryPublisher(self, max_records, max_bytes, on_refused)
        self._publishers = [held for held in self._publishers if not held.ended]
        self._publishers.append(publisher)
        return publisher

    async def group(
        self, log: str, group: str, *, max_pending: int = 8192, ack_wait_s: float = 30.0
    ) -> GroupSubscription:
        self.log(log)
        return _MemoryGroupMember(self, log, group, max_pending, ack_wait_s)

    async def live(self, log: str) -> LiveSubscription:
        return _MemoryLive(self, self.log(log))

    async def read(self, subject: str, cursor: str = "", *, limit: int = 1000) -> Page:
        found, end, at_head = self.log(log_of(subject)).read(subject, cursor, limit)
        return Page(found, end, at_head)

    async def seek(self, subject: str, after: Position) -> str:
        return self.log(log_of(subject)).seek(subject, after)

    async def first(self, subject: str) -> Message | None:
        records = self.log(log_of(subject)).of(subject)
        return records[0] if records else None

    async def last(self, subject: str) -> Message | None:
        records = self.log(log_of(subject)).of(subject)
        return records[-1] if records else None

    async def subjects(self, log: str) -> Sequence[str]:
        return self.log(log).subjects()

    async def held(self, _log: str) -> None:
        """Logs are kept by age alone."""

    async def log_epoch(self, log: str) -> int:
        return self.log(log).epoch

    def check_open(self) -> None:
        if self.closed:
            raise BrokerClosed

    def check_answers(self) -> None:
        self.check_open()
        if not self.server.running:
            raise BrokerUnavailable("memory", "the server is stopped")

    def check_known(self, name: str) -> None:
        """Raise BrokerUnavailable when nobody made this log."""
        if name not in self._specs and self.server.log(name) is None:
            raise BrokerUnavailable("memory", f"log {name} does not exist")

    def log(self, name: str) -> MemoryLog:
        """The log, made anew when it was lost and this broker had ensured it.

        Raises:
            BrokerUnavailable: the server is stopped, or nobody made this log.
        """
        self.check_answers()
        found = self.server.log(name)
        if found is None and name in self._specs:
            found = self.server.ensure(self._specs[name])
        if found is None:
            raise BrokerUnavailable("memory", f"log {name} does not exist")
        return found


class MemoryPart:
    """What publishers, group members and live subscriptions share: ending, wanted or not."""

    def __init__(self, broker: MemoryBroker, what: str) -> None:
        self._broker = broker
        self._what = what
        self._closed = False
        self._failure: Exception | None = None

    @property
    def ended(self) -> bool:
        return self._closed or self._failure is not None

    def fail(self, error: Exception) -> None:
        """End by an error nobody foresaw."""
        self._failure = error
        self._broker.server.bell.ring()

    def _check(self) -> None:
        if self._closed or self._broker.closed:
            raise BrokerClosed(self._what)
        if self._failure is not None:
            failure = self._failure
            raise BrokerFailed(self._what, str(failure) or type(failure).__name__) from failure

    async def aclose(self) -> None:
        self._closed = True
        self._broker.server.bell.ring()


class _Held(msgspec.Struct, gc=False, eq=False):
    record: Record
    size: int
    ticket: int = 0
    taken_at: float = 0.0


class MemoryPublisher(MemoryPart, Publisher):
    """Stores in the loop's next turn, so that a window can fill and callers meet real waiting."""

    def __init__(
        self,
        broker: MemoryBroker,
        max_records: int,
        max_bytes: int,
        on_refused: OnRefused | None,
    ) -> None:
        super().__init__(broker, "publisher")
        self.server = broker.server
        self._on_refused = on_refused
        self._window = PublishWindow[_Held](max_records, max_bytes, broker.server.clock)
        self._due = False

    async def send(self, record: Record) -> int:
        while (ticket := self.offer(record)) is None:
            await self._broker.server.bell.wait()
        return ticket

    def offer(self, record: Record) -> int | None:
        self._check()
        check_record(record)
        size = len(record.payload)
        if size > self._broker.server.max_payload:
            raise RecordTooLarge(record.subject, size, self._broker.server.max_payload)
        self._broker.check_known(log_of(record.subject))
        if not self._window.has_room(size):
            return None
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._store)
        return self._window.take(_Held(record, size))

    def _store(self) -> None:
        server = self._broker.server
        if self._closed or self._broker.closed:
            return
        try:
            self.append(server.clock())
            self._due = False
        except BrokerUnavailable as error:
            # It stays the oldest, and is tried first when there is something to store it in.
            self._window.trouble = error.reason
            server.when_changed(self._store)
        except Exception as error:  # noqa: BLE001 - whoever waits is told, as by a worker
            self.fail(error)
        self._window.release()
        server.bell.ring()

    def append(self, now: float) -> None:
        """Store what was taken. Raises BrokerUnavailable when the oldest one's log is not there."""
        window = self._window
        limit = self._broker.server.max_payload
        while window.items:
            record: Record | None = window.items[0].record
            assert record is not None
            name = log_of(record.subject)
            log = self._broker.log(name)
            if len(record.payload) > limit:
                error = RecordTooLarge(record.subject, len(record.payload), limit)
                record = window.say_refused(record, error, self._on_refused)
                if record is None or len(record.payload) > limit:
                    window.let_go()
                    continue
            stored = log.append(record, now)
            window.let_go()
            if stored:
                window.stored += 1
            elif log.had(record):
                window.duplicates += 1
            else:
                window.say_lost(name, [record])

    async def durable(self, ticket: int) -> None:
        while self._window.horizon < ticket:
            self._check()
            await self._broker.server.bell.wait()

    def stats(self) -> PublisherStats:
        return self._window.stats()


class _MemoryGroupMember(MemoryPart, GroupSubscription):
    def __init__(
        self, broker: MemoryBroker, log: str, group: str, max_pending: int, ack_wait_s: float
    ) -> None:
        super().__init__(broker, f"group {group} on {log}")
        self._log = log
        self._group = group
        self._max_pending = max_pending
        self._ack_wait_s = ack_wait_s
        self._state().take_over()

    def _state(self) -> MemoryGroup:
        log = self._broker.log(self._log)
        group = log.groups.get(self._group)
        if group is None:
            after = log.acked.get(self._group, 0)
            group = MemoryGroup(log, self._max_pending, self._ack_wait_s, after)
            log.groups[self._group] = group
        group.max_pending = self._max_pending
        group.ack_wait_s = self._ack_wait_s
        return group

    async def next_batch(self, max_records: int = 512) -> Sequence[Message]:
        server = self._broker.server
        while True:
            self._check()
            timeout = None
            if server.running:
                state = self._state()
                now = server.clock()
                if taken := state.take(max_records, now):
                    return taken
                deadline = state.next_deadline()
                timeout = None if deadline is None else max(0.001, deadline - now)
            await server.bell.wait(timeout)

    async def ack(self, messages: Sequence[Message]) -> None:
        self._check()
        log = self._broker.log(self._log)
        epoch = f"{log.epoch}@"
        state = self._state()
        state.ack(
            [
                message.seq
                for message in messages
                # A record of a log that was lost must not ack its namesake in the new one.
                if isinstance(message, StoredRecord) and message.cursor.startswith(epoch)
            ]
        )
        log.acked[self._group] = state.acked
        self._broker.server.bell.ring()

    async def lag(self) -> int:
        self._check()
        return self._state().lag()

    async def unread(self) -> int:
        self._check()
        return self._state().unread()


class _MemoryLive(MemoryPart, LiveSubscription):
    """Holds a place in the log, not records, so that it cannot grow."""

    def __init__(self, broker: MemoryBroker, log: MemoryLog) -> None:
        super().__init__(broker, f"live on {log.spec.log}")
        self._name = log.spec.log
        self._log = log
        self._seq = log.last_seq

    async def next_batch(self) -> LiveBatch:
        while True:
            self._check()
            if self._broker.server.running:
                log = self._broker.log(self._name)
                interrupted = log is not self._log or self._seq + 1 < log.first_seq
                if log is not self._log:
                    self._log, self._seq = log, 0
                found = log.after(self._seq, _LIVE_BATCH)
                if found or interrupted:
                    self._seq = found[-1].seq if found else log.first_seq - 1
                    return LiveBatch(found, interrupted)
            await self._broker.server.bell.wait()
