"""The pipelined JetStream publisher.

Records go out in order on a connection of this publisher's own, each with a reply subject that
carries its ticket; acks are matched by it. Whatever goes wrong, a lost connection, an error ack, an
ack that does not come, has one cure: a new connection, on which everything unacked is sent again
in order before anything newer. Four things keep that exact:

- no record is stored while an older one of its subject is not (see `nats_order`: by naming the
  record before, or in batches of which all is stored or nothing);
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
from functools import partial

import structlog

from services.common.errors import BrokerUnavailable, RecordTooLarge
from services.common.stream.broker import (
    LogSpec,
    Message,
    Position,
    Publisher,
    PublisherStats,
    Record,
)
from services.common.stream.history import History
from services.common.stream.nats_acks import Acks
from services.common.stream.nats_frames import status_of
from services.common.stream.nats_link import Connection, Link
from services.common.stream.nats_order import BatchLane, Contended
from services.common.stream.nats_outgoing import InFlight, in_flight
from services.common.stream.nats_session import Session
from services.common.stream.nats_streams import LogState
from services.common.stream.worker import Worker, backoff_s
from services.common.subjects import log_of

log = structlog.get_logger(__name__)

ACK_TIMEOUT_S = 5.0
# What the server says of a record that does not follow the log's newest.
_WRONG_LAST = re.compile(r"wrong last msg ID: ([^\"]*)")
# What it says of a batch with a record that it has; and of one that was cut short, as by a change
# of leader. Other errors of batches are for good.
_STORED_ALREADY = b'"err_code":10201,'
_OF_BATCHES = re.compile(rb"(?:atomic|batch) publish (.*)")
_CUT_SHORT = (b"incomplete", b"inflight")
# Windows of acknowledged records that are kept.
_KEPT_WINDOWS = 4
# For a log somebody else ensured.
_DEFAULT_RETENTION_S = 1200.0


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
        self._window: deque[InFlight] = deque()
        self._by_ticket: dict[int, InFlight] = {}
        self._unsent: deque[InFlight] = deque()
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._waits = 0
        self._bytes = 0
        self._sent = self._stored = self._duplicates = self._retried = self._horizon = 0
        self._history = History(_KEPT_WINDOWS * max_records, max_bytes)
        self._contended = Contended()
        self._again = 0
        # Batches cut short since the last one that was stored.
        self._cut_short = 0
        self._wake = asyncio.Event()
        self.start(self._run())

    async def send(self, record: Record) -> int:
        while (ticket := self.offer(record)) is None:
            await self.changed.wait()
        return ticket

    def offer(self, record: Record) -> int | None:
        if self.ended:
            self.check_open()
        item = in_flight(self._sent + 1, record)
        size = item.size
        if size > self._limit:
            raise RecordTooLarge(record.subject, size, self._limit)
        window = self._window
        if window and (len(window) >= self._max_records or self._bytes + size > self._max_bytes):
            return None
        self._sent = ticket = item.ticket
        window.append(item)
        self._by_ticket[ticket] = item
        self._unsent.append(item)
        self._bytes += size
        self._wake.set()
        return ticket

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
        await self._link.aclose()

    def _end(self) -> None:
        super()._end()
        for _, _, waiter in self._waiting:
            if not waiter.done():
                waiter.set_exception(self.why_ended())
        self._waiting.clear()

    # ------------------------------------------------------------------ sending

    async def _run(self) -> None:
        attempt = 0
        while True:
            connection = await self._link.connected()
            session = Session(connection, self._prepare, self._contended)
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

    async def _serve(self, connection: Connection, session: Session) -> None:
        self._limit = connection.max_payload

        def on_answer(subject: str, _reply: str, headers: bytes, payload: bytes) -> None:
            ticket = int(subject.rpartition(".")[2])
            if payload.startswith(b'{"stream"'):
                self._on_ack(session, ticket, payload)
            else:
                self._on_refusal(session, ticket, headers, payload)

        acks = Acks(session.inbox, partial(self._on_ack, session))
        connection.subscribe(f"{session.inbox}.*", on_answer, self.fail, acks)
        connection.wake_when_lost.add(self._wake)
        await self._reconcile(connection, session)
        self._advance(session)
        self._unsent = deque(item for item in self._window if not item.stored)
        self._retried += sum(item.sent for item in self._unsent)
        watched, seen = self._front(), asyncio.get_running_loop().time()
        while True:
            self._wake.clear()
            await self._send_unsent(connection, session)
            session.check()
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

    async def _send_unsent(self, connection: Connection, session: Session) -> None:
        while True:
            await session.take(self._unsent)
            frames = session.frames()
            if not frames:
                return
            connection.write(frames)
            await connection.drain()
            # The loop is given back, so that acks are read while a long backlog is sent.
            await asyncio.sleep(0)
            session.check()

    async def _reconcile(self, connection: Connection, session: Session) -> None:
        """Find out what the log has of what was sent to it before."""
        newest: dict[str, Position | None] = {}

        async def stored(record: Record) -> bool:
            subject = record.subject
            if subject not in newest:
                await session.epoch(log_of(subject))
                message = await self._last(connection, subject)
                newest[subject] = None if message is None else message.position
            held = newest[subject]
            return held is not None and record.position <= held

        # Those that were being written again are in the history still, and are found there.
        self._window = deque(item for item in self._window if item.ticket > 0)
        self._by_ticket = {item.ticket: item for item in self._window}
        lost: list[Record] = []
        for name in self._history.logs():
            epoch = await session.epoch(name)
            spec = self._specs.get(name)
            retention = _DEFAULT_RETENTION_S if spec is None else spec.retention_s
            kept = self._history.of(name, epoch, retention, time.monotonic())
            lost += [record for record in kept if not await stored(record)]
        for item in list(self._window):
            if not item.sent:
                continue
            there = await stored(item.record)
            if there and not item.stored:
                item.epoch = await session.epoch(log_of(item.record.subject))
                self._mark_stored(item, duplicate=item.refused)
            elif item.stored and not there:
                # Acknowledged out of turn, and lost since.
                item.stored = False
                self._stored -= 1
        if lost:
            log.warning("log_tail_written_again", records=len(lost))
        for record in reversed(lost):
            self._again -= 1
            item = in_flight(self._again, record)
            # Not one of those that the window's bound counts.
            item.size = 0
            self._window.appendleft(item)
            self._by_ticket[item.ticket] = item

    # ------------------------------------------------------------------ acks

    def _on_ack(self, session: Session, ticket: int, data: bytes) -> None:
        if session.over:
            # What is stored is being looked into.
            return
        item = self._by_ticket.get(ticket)
        session.acked += 1
        if item is None or item.stored:
            return
        lane = item.lane
        if isinstance(lane, BatchLane):
            self._cut_short = 0
            items = lane.answered()
            if len(items) > 1 and b'"batch"' not in data:
                # A server that knows no batches; it has taken each record by itself, or none.
                self._contend(log_of(item.record.subject), "no batches")
                session.trouble = "the server takes no batches"
                self._wake.set()
                return
            for each in items:
                self._mark_stored(each, duplicate=b'"duplicate"' in data)
        else:
            self._mark_stored(item, duplicate=b'"duplicate"' in data)
            lane.stored(item.record.subject, item.identity)
        if not session.advancing:
            # Once for all acks that arrived together.
            session.advancing = True
            asyncio.get_running_loop().call_soon(self._advance, session)

    def _on_refusal(self, session: Session, ticket: int, headers: bytes, data: bytes) -> None:
        if session.over or session.trouble is not None:
            return
        item = self._by_ticket.get(ticket)
        self._wake.set()
        reason = data.decode(errors="replace")[:300] or status_of(headers)
        session.trouble = f"not stored: {reason}"
        lane = None if item is None else item.lane
        if item is None or lane is None:
            return
        if isinstance(lane, BatchLane):
            had = _STORED_ALREADY in data
            for each in lane.answered():
                each.refused = had
            contended = self._gives_up_batches(data)
        else:
            # The log's newest is not the one it should be: somebody else's, or one was lost.
            last = _WRONG_LAST.search(reason)
            contended = last is not None and last[1] not in ("", lane.newest)
        if contended:
            self._contend(log_of(item.record.subject), reason)

    def _gives_up_batches(self, data: bytes) -> bool:
        """Whether the refused batch's records had better be sent one by one for a while."""
        error = _OF_BATCHES.search(data)
        if error is None:
            return False
        if any(reason in error[1] for reason in _CUT_SHORT):
            # It is sent again, unless that goes on: then there is a record in it that is refused.
            self._cut_short += 1
            return self._cut_short > 1
        return True

    def _contend(self, name: str, why: str) -> None:
        """Publish to this log as to one that others write to, for a while."""
        for_s = self._contended.seen(name, asyncio.get_running_loop().time())
        log.info("log_is_shared", log=name, reason=why, for_s=for_s)

    def _mark_stored(self, item: InFlight, *, duplicate: bool) -> None:
        item.stored = True
        if item.ticket > 0:
            if duplicate:
                self._duplicates += 1
            else:
                self._stored += 1

    def _advance(self, session: Session) -> None:
        """Let go of the window's stored front."""
        session.advancing = False
        if session.over:
            # What is stored is being looked into.
            return
        window, by_ticket = self._window, self._by_ticket
        now = time.monotonic()
        while window and window[0].stored:
            gone = window.popleft()
            ticket = gone.ticket
            self._bytes -= gone.size
            del by_ticket[ticket]
            if ticket > 0:
                self._horizon = ticket
                self._history.add(gone.record, gone.size, gone.epoch, now)
        while self._waiting and self._waiting[0][0] <= self._horizon:
            waiter = heapq.heappop(self._waiting)[2]
            if not waiter.done():
                waiter.set_result(None)
        self.changed.ring()
        # What waited for one of these may go out.
        self._wake.set()
