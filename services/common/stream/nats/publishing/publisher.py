"""The pipelined JetStream publisher.

Records go out in order on a connection of this publisher's own, each with a reply subject that
carries its ticket; acks are matched by it. Whatever goes wrong, a lost connection, an error ack, an
ack that does not come, has one cure: a new connection, on which everything unacked is sent again
in order before anything newer. Four things keep that exact:

- no record is stored while an older one of its subject is not (see `nats_order`: by naming the
  record before, or in batches of which all is stored or nothing);
- the server drops what it has already stored (`Nats-Msg-Id`) inside the duplicate window;
- before resending, each record is looked for in the log at its own position (see
  `nats_readback`): so an outage longer than the duplicate window doubles nothing, and what is not
  there never counts as stored, whatever newer the log has;
- that read is answered by the stream itself, so nothing is sent into a server whose streams are
  still being recovered.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial

import structlog

from services.common.errors import BrokerUnavailable, RecordRefused, RecordTooLarge
from services.common.resilience.backoff import delay_s
from services.common.stream.broker import (
    OnRefused,
    Position,
    Publisher,
    PublisherStats,
    Record,
)
from services.common.stream.nats.connection import Connection, Link
from services.common.stream.nats.publishing.acks import Acks
from services.common.stream.nats.publishing.encoding import InFlight, in_flight
from services.common.stream.nats.publishing.lanes import BatchLane, Contended
from services.common.stream.nats.publishing.readback import Fate, ReadBack, read_back
from services.common.stream.nats.publishing.session import Confirmed, Session
from services.common.stream.nats.streams import LogState, Streams
from services.common.stream.nats.wire import description_of, status_of
from services.common.stream.publish_window import PublishWindow
from services.common.stream.record_bounds import check_record
from services.common.stream.unsynced_records import History
from services.common.stream.worker import Worker, worth_saying
from services.common.subjects import log_of

log = structlog.get_logger(__name__)

ACK_TIMEOUT_S = 5.0
# What the server says of a record that does not follow the log's newest.
_WRONG_LAST = re.compile(rb"wrong last msg ID: ([^\"]*)")
# What it says of a batch with a record that it has; and of one that was cut short, as by a change
# of leader. Other errors of batches are for good.
_STORED_ALREADY = b'"err_code":10201,'
_OF_BATCHES = re.compile(rb"(?:atomic|batch) publish (.*)")
_CUT_SHORT = (b"incomplete", b"inflight")
# What it will say of this record however often it is sent: its payload, or its headers, are larger
# than the stream or the server allows.
_FOR_GOOD = re.compile(rb'"err_code": ?(?:10054|10097),')
# Windows of acknowledged records that are kept.
_KEPT_WINDOWS = 4
_STUCK = "the server answers and stores nothing"
_STUCK_ACTION = (
    "nats-server stops a stream at its first write error (disk full) and does not try again: look "
    "for 'critical write error' in its log, make room, restart that server"
)
# For a log somebody else ensured.
_DEFAULT_RETENTION_S = 1200.0


class _Unanswered(BrokerUnavailable):
    """What was published was not acknowledged in time."""


class NatsPublisher(Worker, Publisher):
    """See `Publisher`.

    Args:
        link: this publisher's own connection; closed with it.
        streams: the logs.
        known_limit: the server's largest message, bytes.
        max_records: B2.
        max_bytes: B2.
        on_refused: see `OnRefused`.
    """

    def __init__(
        self,
        link: Link,
        streams: Streams,
        *,
        known_limit: int,
        max_records: int,
        max_bytes: int,
        on_refused: OnRefused | None,
    ) -> None:
        super().__init__("publisher")
        self._link = link
        self._streams = streams
        self._limit = known_limit
        self._on_refused = on_refused
        self._window = PublishWindow[InFlight](max_records, max_bytes, time.monotonic)
        self._by_ticket: dict[int, InFlight] = {}
        self._unsent: deque[InFlight] = deque()
        self._history = History(_KEPT_WINDOWS * max_records, max_bytes)
        self._confirmed: dict[str, Confirmed] = {}
        # Logs of which acknowledged records may be gone, until they are written again.
        self._incomplete: set[str] = set()
        self._contended = Contended()
        self._again = 0
        # Sessions in a row that ended as nothing was answered.
        self._unanswered = 0
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
        check_record(record)
        item = in_flight(record)
        size = item.size
        if size > self._limit:
            raise RecordTooLarge(record.subject, size, self._limit)
        window = self._window
        if not window.has_room(size):
            return None
        ticket = window.take(item)
        self._by_ticket[ticket] = item
        self._unsent.append(item)
        self._wake.set()
        return ticket

    async def durable(self, ticket: int) -> None:
        if ticket > self._window.horizon:
            self.check_open()
            await self._window.done(ticket)

    def stats(self) -> PublisherStats:
        return self._window.stats()

    async def aclose(self) -> None:
        await super().aclose()
        await self._link.aclose()

    def _end(self) -> None:
        super()._end()
        self._window.end(self.why_ended)

    # ------------------------------------------------------------------ sending

    async def _run(self) -> None:
        attempt = 0
        while True:
            connection = await self._link.connected()
            session = Session(connection, self._streams.state, self._contended)
            try:
                await self._serve(connection, session)
            except BrokerUnavailable as error:
                attempt = 0 if session.acked else attempt + 1
                self._window.trouble = error.reason
                if isinstance(error, _Unanswered):
                    self._say_stuck(session)
                say = log.warning if worth_saying(attempt) else log.debug
                say(
                    "publisher_interrupted",
                    reason=error.reason,
                    in_flight=len(self._window),
                    attempt=attempt,
                )
            self._advance(session)
            session.over = True
            for name, confirmed in session.confirmed():
                self._confirm(name, confirmed)
            # On the old connection something unacked could still be on its way.
            connection.lose()
            await asyncio.sleep(delay_s(attempt))

    async def _serve(self, connection: Connection, session: Session) -> None:
        self._limit = connection.max_payload

        def on_answer(subject: str, _reply: str, headers: bytes, payload: bytes) -> None:
            number = subject.rpartition(".")[2]
            if not number.removeprefix("-").isdecimal():
                return
            ticket = int(number)
            if payload.startswith(b'{"stream"'):
                self._on_ack(session, ticket, payload)
            else:
                self._on_refusal(session, ticket, headers, payload)

        acks = Acks(session.inbox, partial(self._on_ack, session))
        connection.subscribe(f"{session.inbox}.*", on_answer, self.fail, acks)
        connection.wake_when_lost.add(self._wake)
        await self._reconcile(connection, session)
        for item in self._window.items:
            if item.size > self._limit and not (item.stored or item.replaced):
                # The server that was here before took larger ones.
                subject = item.record.subject
                self._give_up(item, RecordTooLarge(subject, item.size, self._limit))
        self._advance(session)
        self._unsent = deque(item for item in self._window.items if not item.stored)
        self._window.retried += sum(item.sent for item in self._unsent)
        watched, seen = self._front(), asyncio.get_running_loop().time()
        while True:
            self._wake.clear()
            await self._send_unsent(connection, session)
            session.check()
            await self._wait(ACK_TIMEOUT_S / 4 if self._window.items else None)
            now = asyncio.get_running_loop().time()
            # The oldest is what counts: where subjects do not wait for each other, one record can
            # be lost while all others are acknowledged.
            if (front := self._front()) != watched or front is None:
                watched, seen = front, now
            elif now - seen > ACK_TIMEOUT_S:
                raise _Unanswered(connection.target, f"no ack for {ACK_TIMEOUT_S:g} s")

    def _say_stuck(self, session: Session) -> None:
        """The connection stands and the log answers, but not to what is published."""
        self._unanswered = 1 if session.acked else self._unanswered + 1
        if self._unanswered < 2:
            return
        name = log_of(self._window.items[0].record.subject)
        self._window.trouble = f"{_STUCK}: log {name}, no ack in {self._unanswered} tries"
        if worth_saying(self._unanswered - 2):
            log.error("log_is_stuck", log=name, tries=self._unanswered, action=_STUCK_ACTION)

    def _front(self) -> int | None:
        return self._window.items[0].ticket if self._window.items else None

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

    # ------------------------------------------------------------------ looking up what is stored

    async def _reconcile(self, connection: Connection, session: Session) -> None:
        """Find out what the logs have of what was sent to them before."""
        window = self._window
        # Those that were being written again are in the history still, and are found there.
        self._incomplete |= {log_of(i.record.subject) for i in window.items if i.ticket < 0}
        window.items = deque(item for item in window.items if item.ticket > 0)
        self._by_ticket = {item.ticket: item for item in window.items}
        sent: dict[str, list[InFlight]] = {name: [] for name in self._history.logs()}
        for item in window.items:
            if item.sent and not item.lost:
                sent.setdefault(log_of(item.record.subject), []).append(item)
        again: list[Record] = []
        for name, items in sent.items():
            state = await session.state(name)
            kept: list[Record] = []
            if not await self._is_whole(connection, name, state):
                self._incomplete.add(name)
            if name in self._incomplete:
                spec = self._streams.specs.get(name)
                retention = _DEFAULT_RETENTION_S if spec is None else spec.retention_s
                kept = self._history.of(name, state.epoch, retention, time.monotonic())
            elif all(item.stored for item in items):
                continue
            else:
                items = [item for item in items if not item.stored]
            found = await self._look_up(connection, state, [*kept, *(i.record for i in items)])
            again += self._judge_kept(name, kept, found)
            self._judge_sent(name, items, state, found)
        # From here on what is missing of them is in the window.
        self._incomplete.clear()
        if again:
            log.warning("log_tail_written_again", records=len(again))
        for record in reversed(again):
            self._again -= 1
            item = in_flight(record)
            item.ticket, item.taken_at = self._again, time.monotonic()
            # Not one of those that the window's bound counts.
            item.size = 0
            window.items.appendleft(item)
            self._by_ticket[item.ticket] = item

    async def _is_whole(self, connection: Connection, name: str, state: LogState) -> bool:
        """Whether the log has all that it acknowledged here.

        Logs lose their end and nothing else, so the newest such record stands for all.
        """
        held = self._confirmed.get(name)
        if held is None or held.epoch != state.epoch:
            return held is None
        if state.first > held.seq:
            # Gone by age or size, and everything before it.
            return state.last >= held.seq
        there = await self._streams.next(connection, name, held.subject, held.seq, state.epoch)
        return there is not None and (there.seq, there.position) == (held.seq, held.position)

    async def _look_up(
        self, connection: Connection, state: LogState, records: Sequence[Record]
    ) -> dict[str, ReadBack]:
        wanted: dict[str, list[Position]] = {}
        for record in records:
            wanted.setdefault(record.subject, []).append(record.position)
        return {
            subject: await read_back(self._streams, connection, state, subject, sorted(positions))
            for subject, positions in wanted.items()
        }

    def _judge_kept(
        self, name: str, kept: Sequence[Record], found: Mapping[str, ReadBack]
    ) -> list[Record]:
        """Which of the acknowledged records have to be written again."""
        fates = [found[record.subject].fate(record.position) for record in kept]
        gone = [record for record, fate in zip(kept, fates, strict=True) if fate is Fate.LOST]
        if gone:
            self._history.forget(gone)
            self._window.say_lost(name, gone)
        return [record for record, fate in zip(kept, fates, strict=True) if fate is Fate.MISSING]

    def _judge_sent(
        self, name: str, items: Sequence[InFlight], state: LogState, found: Mapping[str, ReadBack]
    ) -> None:
        """Mark which of the window's records are stored."""
        gone: list[Record] = []
        for item in items:
            record = item.record
            back = found[record.subject]
            fate = back.fate(record.position)
            if fate is Fate.MISSING:
                if item.stored:
                    # Acknowledged out of turn, and lost since.
                    item.stored = False
                    self._window.stored -= 1
                continue
            if fate is Fate.LOST:
                gone.append(record)
                item.lost = item.stored = True
                continue
            item.epoch = state.epoch
            if fate is Fate.STORED:
                seq = back.found[record.position]
                self._confirm(name, Confirmed(state.epoch, seq, record.subject, record.position))
            if not item.stored:
                self._mark_stored(item, duplicate=item.refused)
        if gone:
            self._window.say_lost(name, gone)

    def _confirm(self, name: str, confirmed: Confirmed) -> None:
        held = self._confirmed.get(name)
        if held is None or confirmed[:2] >= held[:2]:
            self._confirmed[name] = confirmed

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
        duplicate = b'"duplicate"' in data
        if isinstance(lane, BatchLane):
            self._cut_short = 0
            items = lane.stored(item)
            if len(items) > 1 and b'"batch"' not in data:
                # A server that knows no batches; it has taken each record by itself, or none.
                self._contend(log_of(item.record.subject), "no batches")
                session.fail("the server takes no batches")
                items = []
            if items and session.acknowledged(items, data, duplicate=duplicate):
                for each in items:
                    self._mark_stored(each, duplicate=duplicate)
        elif session.acknowledged([item], data, duplicate=duplicate):
            self._mark_stored(item, duplicate=duplicate)
            lane.stored(item.record.subject, item.identity)
        if session.trouble is not None:
            self._wake.set()
        if not session.advancing:
            # Once for all acks that arrived together.
            session.advancing = True
            asyncio.get_running_loop().call_soon(self._advance, session)

    def _on_refusal(self, session: Session, ticket: int, headers: bytes, data: bytes) -> None:
        if session.over or session.trouble is not None:
            return
        item = self._by_ticket.get(ticket)
        self._wake.set()
        session.fail(f"not stored: {_reason(headers, data)}")
        lane = None if item is None else item.lane
        if item is None or lane is None:
            return
        for_good = _FOR_GOOD.search(data) is not None
        if isinstance(lane, BatchLane):
            had = _STORED_ALREADY in data
            items = lane.refuse(item)
            for each in items:
                each.refused = had
            # Which of a batch it is shows when each is sent by itself.
            contended = self._gives_up_batches(data) or (for_good and len(items) > 1)
            for_good = for_good and len(items) == 1
        else:
            lane.refuse()
            # The log's newest is not the one it should be: somebody else's, or one was lost.
            last = _WRONG_LAST.search(data)
            contended = last is not None and last[1].decode(errors="replace") not in (
                "",
                lane.newest,
            )
        if for_good:
            self._give_up(item, RecordRefused(item.record.subject, _reason(headers, data)))
        if contended:
            self._contend(log_of(item.record.subject), _reason(headers, data))

    def _give_up(self, item: InFlight, error: RecordRefused) -> None:
        """The server will never store this."""
        instead: Record | None = None
        if item.ticket < 0:
            # Acknowledged once, and lost since.
            self._history.forget([item.record])
            self._window.say_lost(log_of(item.record.subject), [item.record])
        elif not item.replaced:
            try:
                instead = self._window.say_refused(item.record, error, self._on_refused)
            except RecordRefused as unheard:
                self.fail(unheard)
                return
        if instead is None:
            item.lost = item.stored = True
            return
        other = in_flight(instead)
        item.record, item.headers, item.replaced = instead, other.headers, True

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
                self._window.duplicates += 1
            else:
                self._window.stored += 1

    def _advance(self, session: Session) -> None:
        """Let go of the window's stored front."""
        session.advancing = False
        if session.over:
            # What is stored is being looked into.
            return
        window, by_ticket = self._window, self._by_ticket
        items = window.items
        now = time.monotonic()
        while items and items[0].stored:
            gone = window.let_go()
            del by_ticket[gone.ticket]
            if gone.ticket > 0 and not gone.lost:
                self._history.add(gone.record, gone.size, gone.epoch, now)
        window.release()
        self.changed.ring()
        # What waited for one of these may go out.
        self._wake.set()


def _reason(headers: bytes, data: bytes) -> str:
    """Why the server refused, in its own words."""
    if not data:
        return f"{status_of(headers)} {description_of(headers) or 'nobody stores it'}".strip()
    try:
        error = json.loads(data)["error"]
        return f"{error['description']} (JetStream error {error['err_code']})"
    except (ValueError, LookupError, TypeError):
        return data.decode(errors="replace")[:300]
