"""The pipelined JetStream publisher.

Records go out in order on a connection of this publisher's own, each with a reply subject that
carries its ticket; acks are matched by it. Whatever goes wrong, a lost connection, an error ack, an
ack that does not come, has one cure: a new connection, on which everything unacked is sent again
in order before anything newer. Four things keep that exact:

- no record is stored while an older one of its subject is not (see `nats_order`);
- the server drops what it has already stored (`Nats-Msg-Id`) inside the duplicate window;
- before resending, each subject's newest stored position is read, and what is not above it counts
  as stored: so an outage longer than the duplicate window doubles nothing;
- that read is answered by the stream itself, so nothing is sent into a server whose streams are
  still being recovered.
"""

from __future__ import annotations

import asyncio
import heapq
import re
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import structlog

from services.common.errors import BrokerClosed, BrokerUnavailable, RecordTooLarge
from services.common.stream.broker import (
    LogSpec,
    Message,
    Position,
    Publisher,
    PublisherStats,
    Record,
)
from services.common.stream.history import History
from services.common.stream.nats_frames import status_of
from services.common.stream.nats_link import Connection, Link
from services.common.stream.nats_order import Lane
from services.common.stream.nats_records import header_lines, message_id
from services.common.stream.nats_streams import LogState
from services.common.stream.worker import Worker, backoff_s
from services.common.subjects import log_of

log = structlog.get_logger(__name__)

ACK_TIMEOUT_S = 5.0
# What is written at a time.
_WRITE_BYTES = 64 * 1024
# What the server says of a record that does not follow the log's newest.
_WRONG_LAST = re.compile(r"wrong last msg ID: ([^\"]*)")
_FOLLOWS = "Nats-Expected-Last-Msg-Id: "
# How long a log counts as shared after somebody else was seen to write to it, and at most.
_SHARED_S = 30.0
_MAX_SHARED_S = 3600.0
# Windows of acknowledged records that are kept.
_KEPT_WINDOWS = 4
# Of a message's size, what is added when it is sent: an expectation, line ends.
_MOST_ADDED = 256
# For a log somebody else ensured.
_DEFAULT_RETENTION_S = 1200.0


@dataclass(slots=True)
class _InFlight:
    """`ticket` is below 0 for a record that is written again."""

    ticket: int
    record: Record
    identity: str
    headers: bytes
    size: int
    sends: int = 0
    stored: bool = False
    epoch: int = 0


@dataclass(slots=True)
class _Session:
    """One connection's life as the publisher sees it; logs by name."""

    inbox: str
    epochs: dict[str, int] = field(default_factory=dict)
    replicated: set[str] = field(default_factory=set)
    lanes: dict[str, Lane[_InFlight]] = field(default_factory=dict)
    acked: int = 0
    trouble: str | None = None
    advancing: bool = False
    over: bool = False


class _Contention(NamedTuple):
    """Another publisher was seen to write to a log; `until` is the loop's time."""

    until: float
    period_s: float


class NatsPublisher(Worker, Publisher):
    """See `Publisher`.

    Args:
        link: this publisher's own connection; closed with it.
        specs: of the logs that were ensured.
        prepare: makes sure that a log exists and answers; returns its state.
        last: the newest stored record of a subject.
        known_limit: the server's largest message, bytes.
    """

    def __init__(
        self,
        link: Link,
        *,
        specs: Mapping[str, LogSpec],
        prepare: Callable[[Connection, str], Awaitable[LogState]],
        last: Callable[[Connection, str], Awaitable[Message | None]],
        known_limit: int,
        max_records: int,
        max_bytes: int,
    ) -> None:
        super().__init__("publisher")
        self._link = link
        self._specs = specs
        self._prepare = prepare
        self._last = last
        self._limit = known_limit
        self._max_records = max_records
        self._max_bytes = max_bytes
        self._window: deque[_InFlight] = deque()
        self._by_ticket: dict[int, _InFlight] = {}
        self._unsent: deque[_InFlight] = deque()
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._waits = 0
        self._bytes = 0
        self._sent = self._stored = self._duplicates = self._retried = self._horizon = 0
        self._history = History(_KEPT_WINDOWS * max_records, max_bytes)
        self._contended: dict[str, _Contention] = {}
        self._again = 0
        self._wake = asyncio.Event()
        self.start(self._run())

    async def send(self, record: Record) -> int:
        while (ticket := self.offer(record)) is None:
            await self.changed.wait()
        return ticket

    def offer(self, record: Record) -> int | None:
        self.check_open()
        identity = message_id(record.subject, record.position)
        headers = header_lines(record, identity)
        size = len(headers) + len(record.payload) + _MOST_ADDED
        if size > self._limit:
            raise RecordTooLarge(record.subject, size, self._limit)
        if self._window and (
            len(self._window) >= self._max_records or self._bytes + size > self._max_bytes
        ):
            return None
        self._sent += 1
        item = _InFlight(self._sent, record, identity, headers, size)
        self._window.append(item)
        self._by_ticket[item.ticket] = item
        self._unsent.append(item)
        self._bytes += size
        self._wake.set()
        return item.ticket

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
            stored=self._stored,
            duplicates=self._duplicates,
            retried=self._retried,
            in_flight=len(self._window),
            bytes_in_flight=self._bytes,
        )

    async def aclose(self) -> None:
        await super().aclose()
        self._end_waits()
        await self._link.aclose()

    def _ended(self, task: asyncio.Task[None]) -> None:
        super()._ended(task)
        self._end_waits()

    def _end_waits(self) -> None:
        for _, _, waiter in self._waiting:
            if not waiter.done():
                waiter.set_exception(BrokerClosed(self.what))
        self._waiting.clear()

    # ------------------------------------------------------------------ sending

    async def _run(self) -> None:
        attempt = 0
        while True:
            connection = await self._link.connected()
            session = _Session(connection.new_inbox())
            try:
                await self._serve(connection, session)
            except BrokerUnavailable as error:
                attempt = 0 if session.acked else attempt + 1
                log.warning(
                    "publisher_interrupted",
                    reason=error.reason,
                    in_flight=len(self._window),
                    attempt=attempt,
                )
            self._advance(session)
            session.over = True
            # On the old connection something unacked could still be on its way.
            connection.lose()
            await asyncio.sleep(backoff_s(attempt))

    async def _serve(self, connection: Connection, session: _Session) -> None:
        self._limit = connection.max_payload

        def on_ack(subject: str, _reply: str, headers: bytes, payload: bytes) -> None:
            self._on_ack(session, subject, headers, payload)

        connection.subscribe(f"{session.inbox}.*", on_ack)
        connection.wake_when_lost.add(self._wake)
        await self._reconcile(connection, session)
        self._advance(session)
        self._unsent = deque(item for item in self._window if not item.stored)
        watched, seen = self._front(), asyncio.get_running_loop().time()
        while True:
            self._wake.clear()
            await self._send_unsent(connection, session)
            self._check(connection, session)
            await self._wait(ACK_TIMEOUT_S / 4 if self._window else None)
            now = asyncio.get_running_loop().time()
            # The oldest is what counts: where subjects do not wait for each other, one record can
            # be lost while all others are acknowledged.
            if (front := self._front()) != watched or front is None:
                watched, seen = front, now
            elif now - seen > ACK_TIMEOUT_S:
                raise BrokerUnavailable(connection.target, f"no ack for {ACK_TIMEOUT_S:g} s")

    def _front(self) -> int | None:
        return self._window[0].ticket if self._window else None

    async def _wait(self, timeout_s: float | None) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _send_unsent(self, connection: Connection, session: _Session) -> None:
        while True:
            unsent = self._unsent
            while unsent:
                item = unsent[0]
                subject = item.record.subject
                lane = session.lanes.get(log_of(subject))
                if lane is None or (lane.shared and lane.idle):
                    lane = await self._lane(connection, session, log_of(subject))
                unsent.popleft()
                lane.put(subject, item.identity, item)
            frames: list[bytes] = []
            size = 0
            for lane in session.lanes.values():
                while size < _WRITE_BYTES and (ready := lane.next()) is not None:
                    size += self._add_frame(frames, session, *ready)
            if not frames:
                return
            connection.write(b"".join(frames))
            await connection.drain()
            # The loop is given back, so that acks are read while a long backlog is sent.
            await asyncio.sleep(0)
            self._check(connection, session)

    def _add_frame(
        self, frames: list[bytes], session: _Session, item: _InFlight, follows: str
    ) -> int:
        """Append the record's message to `frames`; its size, roughly."""
        if item.sends:
            self._retried += 1
        item.sends += 1
        payload = item.record.payload
        end = f"{_FOLLOWS}{follows}\r\n\r\n".encode() if follows else b"\r\n"
        head = len(item.headers) + len(end)
        frames += (
            f"HPUB {item.record.subject} {session.inbox}.{item.ticket} "
            f"{head} {head + len(payload)}\r\n".encode(),
            item.headers,
            end,
            payload,
            b"\r\n",
        )
        return head + len(payload)

    async def _lane(self, connection: Connection, session: _Session, name: str) -> Lane[_InFlight]:
        """The log's lane; a new one where there is none, or it is shared no longer."""
        if name not in session.epochs:
            await self._open_log(connection, session, name)
        contention = self._contended.get(name)
        shared = name in session.replicated or (
            contention is not None and asyncio.get_running_loop().time() < contention.until
        )
        lane = session.lanes.get(name)
        if lane is None or lane.shared != shared:
            lane = session.lanes[name] = Lane(shared=shared)
        return lane

    async def _open_log(self, connection: Connection, session: _Session, name: str) -> None:
        state = await self._prepare(connection, name)
        session.epochs[name] = state.epoch
        if state.replicated:
            session.replicated.add(name)

    def _check(self, connection: Connection, session: _Session) -> None:
        if session.trouble is not None:
            raise BrokerUnavailable(connection.target, session.trouble)
        if connection.lost.is_set():
            raise BrokerUnavailable(connection.target, "connection lost")

    async def _reconcile(self, connection: Connection, session: _Session) -> None:
        """Find out what the log has of what was sent to it before."""
        newest: dict[str, Position | None] = {}

        async def stored(record: Record) -> bool:
            subject = record.subject
            if subject not in newest:
                name = log_of(subject)
                if name not in session.epochs:
                    await self._open_log(connection, session, name)
                message = await self._last(connection, subject)
                newest[subject] = None if message is None else message.position
            held = newest[subject]
            return held is not None and record.position <= held

        # Those that were being written again are in the history still, and are found there.
        self._window = deque(item for item in self._window if item.ticket > 0)
        self._by_ticket = {item.ticket: item for item in self._window}
        lost: list[Record] = []
        for name in self._history.logs():
            await self._open_log(connection, session, name)
            epoch = session.epochs[name]
            spec = self._specs.get(name)
            retention = _DEFAULT_RETENTION_S if spec is None else spec.retention_s
            kept = self._history.of(name, epoch, retention, time.monotonic())
            lost += [record for record in kept if not await stored(record)]
        for item in list(self._window):
            if not item.sends:
                continue
            there = await stored(item.record)
            if there and not item.stored:
                self._mark_stored(session, item, duplicate=False)
            elif item.stored and not there:
                # Acknowledged out of turn, and lost since.
                item.stored = False
                self._stored -= 1
        if lost:
            log.warning("log_tail_written_again", records=len(lost))
        for record in reversed(lost):
            self._again -= 1
            identity = message_id(record.subject, record.position)
            item = _InFlight(self._again, record, identity, header_lines(record, identity), 0)
            self._window.appendleft(item)
            self._by_ticket[item.ticket] = item

    # ------------------------------------------------------------------ acks

    def _on_ack(self, session: _Session, subject: str, headers: bytes, data: bytes) -> None:
        item = self._by_ticket.get(int(subject.rpartition(".")[2]))
        if not data.startswith(b'{"stream"'):
            if session.trouble is None:
                reason = data.decode(errors="replace")[:300] or status_of(headers)
                session.trouble = f"not stored: {reason}"
                if item is not None and (last := _WRONG_LAST.search(reason)) is not None:
                    self._contend(session, log_of(item.record.subject), last[1])
            self._wake.set()
            return
        session.acked += 1
        if item is None or item.stored:
            return
        self._mark_stored(session, item, duplicate=b'"duplicate"' in data)
        lane = session.lanes.get(log_of(item.record.subject))
        if lane is not None:
            lane.stored(item.record.subject, item.identity)
        if not session.advancing:
            # Once for all acks that arrived together.
            session.advancing = True
            asyncio.get_running_loop().call_soon(self._advance, session)

    def _contend(self, session: _Session, name: str, last: str) -> None:
        """The log's newest record is not the one it should be: somebody else's, or one was lost."""
        lane = session.lanes.get(name)
        if lane is None or last in ("", lane.newest):
            return
        held = self._contended.get(name)
        period_s = _SHARED_S if held is None else min(2 * held.period_s, _MAX_SHARED_S)
        until = asyncio.get_running_loop().time() + period_s
        self._contended[name] = _Contention(until, period_s)
        log.info("log_is_shared", log=name, last=last, for_s=period_s)

    def _mark_stored(self, session: _Session, item: _InFlight, *, duplicate: bool) -> None:
        item.stored = True
        if item.ticket > 0:
            if duplicate:
                self._duplicates += 1
            else:
                self._stored += 1
            item.epoch = session.epochs[log_of(item.record.subject)]

    def _advance(self, session: _Session) -> None:
        """Let go of the window's stored front."""
        session.advancing = False
        if session.over:
            # What is stored is being looked into.
            return
        window = self._window
        now = time.monotonic()
        while window and window[0].stored:
            gone = window.popleft()
            self._bytes -= gone.size
            self._horizon = max(self._horizon, gone.ticket)
            del self._by_ticket[gone.ticket]
            if gone.ticket > 0:
                self._history.add(gone.record, gone.size, gone.epoch, now)
        while self._waiting and self._waiting[0][0] <= self._horizon:
            waiter = heapq.heappop(self._waiting)[2]
            if not waiter.done():
                waiter.set_result(None)
        self.changed.ring()
        # What waited for one of these may go out.
        self._wake.set()
