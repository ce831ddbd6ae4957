"""The pipelined JetStream publisher.

Records go out in order on a connection of this publisher's own, each with a reply subject that
carries its ticket; acks are matched by it. Whatever goes wrong, a lost connection, an error ack, an
ack that does not come, has one cure: a new connection, on which everything unacked is sent again
in order before anything newer. Five things keep that exact:

- no record is stored while an older one of its subject is not (`publishing/lanes.py`: by waiting
  for it, by naming it, or in batches of which all is stored or nothing);
- the server drops what it has already stored (`Nats-Msg-Id`) inside the duplicate window;
- before resending, each record is looked for in the log at its own position (see
  `publishing/reconcile.py`): so an outage longer than the duplicate window doubles nothing, and
  what is not there never counts as stored, whatever newer the log has;
- that read is answered by the stream itself, so nothing is sent into a server whose streams are
  still being recovered;
- where others publish to the same subjects too, nothing is sent above what is missing of theirs
  (`proof.py`): they have a moment to send it, then this publisher ends.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial

import structlog

from services.common.errors import BrokerUnavailable, LogWentBack, RecordRefused
from services.common.resilience import delay_s
from services.common.stream.broker_base import PublisherBase, PublisherOptions
from services.common.stream.nats.connection import Connection
from services.common.stream.nats.link import Link
from services.common.stream.nats.publishing.lanes import BatchLane, Contended
from services.common.stream.nats.publishing.messages import (
    Acks,
    Published,
    Refusal,
    in_flight,
    read_refusal,
    sequence_of,
)
from services.common.stream.nats.publishing.reconcile import Reconciler, mark_stored
from services.common.stream.nats.publishing.session import Session
from services.common.stream.nats.streams import Streams
from services.common.stream.proof import Proof
from services.common.stream.records import Position
from services.common.stream.worker import wait_for, worth_saying
from services.common.subjects import log_of

log = structlog.get_logger(__name__)

ACK_TIMEOUT_S = 5.0
# How often a hole is looked at again before somebody else has to fill it.
_PATIENCE = 5
_STUCK = "the server answers and stores nothing"
_STUCK_ACTION = (
    "nats-server stops a stream at its first write error (disk full) and does not try again: look "
    "for 'critical write error' in its log, make room, restart that server"
)


class _Unanswered(BrokerUnavailable):
    """What was published was not acknowledged in time."""


class NatsPublisher(PublisherBase[Published]):
    """See `Publisher`. The link is its own, closed with it."""

    _in_flight = staticmethod(in_flight)

    def __init__(
        self, link: Link, streams: Streams, options: PublisherOptions, *, known_limit: int
    ) -> None:
        super().__init__(options, known_limit)
        self._link = link
        self._streams = streams
        self._reconciler = Reconciler(streams, self._window, self._unsynced)
        self._by_ticket: dict[int, Published] = {}
        self._unsent: deque[Published] = deque()
        self._contended = Contended()
        self._proof = Proof[str, Published](
            options.predecessor, lambda item: item.record.subject, self._newest_of
        )
        self._session: Session
        # Sessions in a row that ended as nothing was answered.
        self._unanswered = 0
        # Batches refused for what may pass, since the last one that was stored.
        self._refused_batches = 0
        self.start(self._run())

    def _taken(self, item: Published) -> None:
        self._by_ticket[item.ticket] = item
        self._unsent.append(item)

    async def aclose(self) -> None:
        await super().aclose()
        await self._link.aclose()

    # ------------------------------------------------------------------ sending

    async def _run(self) -> None:
        attempt = holes = 0
        while True:
            connection = await self._link.connected()
            session = self._session = Session(connection, self._streams.state, self._contended)
            try:
                await self._serve(connection, session)
            except BrokerUnavailable as error:
                attempt = 0 if session.acked else attempt + 1
                self._say_interrupted(error, attempt)
                if isinstance(error, _Unanswered):
                    self._say_stuck(session)
                if session.acked:
                    holes = 0
            except LogWentBack:
                # Whoever wrote what is missing may be about to write it again.
                if holes == _PATIENCE:
                    raise
                attempt = holes
                holes += 1
            self._proof.doubt()
            self._advance(session)
            session.over = True
            for name, confirmed in session.confirmed():
                self._reconciler.confirm(name, confirmed)
            # On the old connection something unacked could still be on its way.
            connection.lose()
            await asyncio.sleep(delay_s(attempt))

    async def _serve(self, connection: Connection, session: Session) -> None:
        self._limit = connection.max_payload

        def on_answer(subject: str, _reply: str, headers: bytes, payload: bytes) -> None:
            number = subject.rpartition(".")[2]
            if not number.removeprefix("-").isdecimal():
                return
            if payload.startswith(b'{"stream"'):
                self._on_acks(session, [(number, payload, sequence_of(payload))])
            else:
                self._on_refusal(session, int(number), headers, payload)

        acks = Acks(session.inbox, partial(self._on_acks, session))
        connection.subscribe(f"{session.inbox}.*", on_answer, self.fail, acks)
        connection.wake_when_lost[self._wake] = None
        await self._reconciler.look_up(session)
        self._by_ticket = {item.ticket: item for item in self._window.items}
        self._give_up_too_large()
        self._advance(session)
        self._unsent = deque(item for item in self._window.items if not item.stored)
        self._window.retried += sum(item.sent for item in self._unsent)
        standing, hole = await self._proof.sort_out(self._unsent)
        if hole is not None:
            await self._store_only(connection, session, standing)
            raise hole
        watched, seen = self._front(), asyncio.get_running_loop().time()
        while True:
            self._wake.clear()
            await self._send(connection, session, self._unsent)
            session.check()
            await wait_for(self._wake, ACK_TIMEOUT_S / 4 if self._window.items else None)
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

    async def _store_only(
        self, connection: Connection, session: Session, items: list[Published]
    ) -> None:
        """Send these and nothing else, and return once they are stored."""
        unsent = deque(items)
        while not all(item.stored for item in items):
            self._wake.clear()
            await self._send(connection, session, unsent)
            session.check()
            if not await wait_for(self._wake, ACK_TIMEOUT_S):
                raise _Unanswered(connection.target, f"no ack for {ACK_TIMEOUT_S:g} s")

    async def _send(
        self, connection: Connection, session: Session, unsent: deque[Published]
    ) -> None:
        while True:
            await self._proof.check(unsent)
            await session.enqueue(unsent)
            frames = session.frames()
            if not frames:
                return
            connection.write(frames)
            await connection.drain()
            # The loop is given back, so that acks are read while a long backlog is sent.
            await asyncio.sleep(0)

    async def _newest_of(self, subjects: Sequence[str]) -> Mapping[str, Position | None]:
        newest: dict[str, Position | None] = {}
        for subject in subjects:
            last = await (await self._session.state(log_of(subject))).last_of(subject)
            newest[subject] = None if last is None else last.position
        return newest

    # ------------------------------------------------------------------ acks

    def _on_acks(
        self, session: Session, acks: Sequence[tuple[bytes | str, bytes, bytes | int]]
    ) -> None:
        """Tickets, payloads and sequences of what came together."""
        if session.over:
            # What is stored is being looked into.
            return
        session.acked += len(acks)
        item_of, window, acknowledged = self._by_ticket.get, self._window, session.acknowledged
        for ticket, data, sequence in acks:
            item = item_of(int(ticket))
            if item is None or item.stored:
                continue
            lane = item.lane
            duplicate = b'"duplicate"' in data
            if isinstance(lane, BatchLane):
                self._on_batch(session, lane, item, data, int(sequence), duplicate=duplicate)
            elif acknowledged(item, 1, int(sequence), duplicate=duplicate):
                mark_stored(window, item, duplicate=duplicate)
                lane.stored(item.record.subject)
        if session.trouble is not None:
            self._wake.set()
        if not session.advancing:
            # Once for all acks that arrived together.
            session.advancing = True
            asyncio.get_running_loop().call_soon(self._advance, session)

    def _on_batch(
        self,
        session: Session,
        lane: BatchLane[Published],
        last: Published,
        data: bytes,
        sequence: int,
        *,
        duplicate: bool,
    ) -> None:
        self._refused_batches = 0
        items = lane.stored(last)
        if len(items) > 1 and b'"batch"' not in data:
            # A server that knows no batches; it has taken each record by itself, or none.
            self._contend(log_of(last.record.subject), "no batches")
            session.fail("the server takes no batches")
        elif items and session.acknowledged(last, len(items), sequence, duplicate=duplicate):
            for each in items:
                mark_stored(self._window, each, duplicate=duplicate)

    def _on_refusal(self, session: Session, ticket: int, headers: bytes, data: bytes) -> None:
        if session.over or session.trouble is not None:
            return
        item = self._by_ticket.get(ticket)
        self._wake.set()
        refusal = read_refusal(headers, data)
        session.fail(f"not stored: {refusal.reason}")
        lane = None if item is None else item.lane
        if item is None or lane is None:
            return
        for_good = refusal.for_good
        if isinstance(lane, BatchLane):
            items = lane.refuse(item)
            for each in items:
                each.refused = refusal.has_some
            # Which of a batch it is shows when each is sent by itself.
            contended = self._gives_up_batches(refusal) or (for_good and len(items) > 1)
            for_good = for_good and len(items) == 1
        else:
            lane.refuse()
            # Somebody else's stands there, or one was lost: for a while runs are no use.
            contended = refusal.unlike
        if for_good:
            self._give_up(item, RecordRefused(item.record.subject, refusal.reason))
        if contended:
            self._contend(log_of(item.record.subject), refusal.reason)

    def _give_up(self, item: Published, error: RecordRefused) -> None:
        if item.ticket < 0:
            # Acknowledged once, and lost since.
            self._unsynced.forget([item.record])
            self._window.say_lost(log_of(item.record.subject), [item.record])
            item.lost = item.stored = True
            return
        try:
            super()._give_up(item, error)
        except RecordRefused as unheard:
            self.fail(unheard)
        if item.replaced:
            item.headers = in_flight(item.record).headers

    def _gives_up_batches(self, refusal: Refusal) -> bool:
        """Whether the refused batch's records had better be sent one by one for a while."""
        if refusal.cut_short or refusal.full:
            # It is sent again, unless that goes on: then there is a record in it that is refused.
            self._refused_batches += 1
            return self._refused_batches > 1
        return refusal.of_batch

    def _contend(self, name: str, why: str) -> None:
        """Publish to this log as to one that others write to, for a while."""
        for_s = self._contended.seen(name, asyncio.get_running_loop().time())
        log.info("log_is_shared", log=name, reason=why, for_s=for_s)

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
            gone = window.pop_oldest()
            del by_ticket[gone.ticket]
            if gone.ticket > 0 and not gone.lost:
                self._unsynced.add(gone.record, gone.size, gone.epoch, now)
        window.wake_done()
        self.changed.ring()
        # What waited for one of these may go out.
        self._wake.set()
