"""Following a log by a core subscription on the stream's own subjects: the cheapest live path.

It costs the server no consumer and no read, and sees what is published before it is stored. So
what it brings may not be in the log yet, may come twice, or may be missing here. Why a reader that
checks `prev` may pass it on all the same:

- Whoever publishes a tick took its raw record from the log, acks it only when the tick is stored,
  and makes the same bytes of it again (another version of the mapping: the same position and
  `prev`). What the server refuses (a change of leader, a record that does not follow, a batch that
  is not committed) or loses is sent again, if need be by the next normalizer. So what is seen here
  will be stored; until then it is ahead of the log by the publisher's window at most, which is
  milliseconds unless the log is down.
- What is sent again is seen twice: each subject's newest position is kept, and what is not newer
  is left out here.
- What is missing here (the connection was away, the server dropped it, a buffer overflowed) is said
  by `interrupted` or shows in the next record's `prev`, and is read from the log. If the log does
  not have it yet, the reader asks again. What was lost between two servers, or on the way to a leaf
  node, nobody is told of; a quiet stream's last record would be missing until the next one. So
  every `check_s` what was seen is compared with what the log stored (`loss_check.py`).
- Only where the raw log itself lost its end, and its writer is gone too, was something seen that
  will never be stored. The next record then names another predecessor, the log leads nowhere from
  the one to the other, and readers start over from a state: clients get a snapshot.
- A cursor of a live record is its position, since the stream's sequence is not known; a reader
  that comes back with one that is not stored yet goes on at the log's end.

`services/gateway/tests/test_core_tail.py` makes these happen on a server.
"""

from __future__ import annotations

import asyncio
from collections import deque

import structlog

from services.common.errors import BrokerUnavailable
from services.common.resilience import delay_s
from services.common.stream.broker_base import LiveBase
from services.common.stream.nats.connection import Connection
from services.common.stream.nats.link import Link
from services.common.stream.nats.loss_check import LossCheck
from services.common.stream.nats.records import NatsMessage
from services.common.stream.nats.streams import LogState, Streams
from services.common.stream.records import LiveBatch, Position
from services.common.stream.worker import wait_for
from services.common.subjects import log_subjects

log = structlog.get_logger(__name__)

_MAX_RECORDS = 65_536
_MAX_BYTES = 64 * 1024 * 1024
# What is stored reaches subscribers within this.
_ON_ITS_WAY_S = 1.0
_NEVER = Position(-1, 0)


class NatsLive(LiveBase):
    """See `LiveSubscription`. Holds at most 65,536 records or 64 MiB, then drops and says so.

    Every `check_s` it looks whether it has seen everything.
    """

    def __init__(self, link: Link, streams: Streams, log_name: str, *, check_s: float) -> None:
        super().__init__(f"live on {log_name}")
        self._link = link
        self._streams = streams
        self._check_s = check_s
        self._log_name = log_name
        self._pattern = log_subjects(log_name)
        self._buffer: deque[NatsMessage] = deque()
        self._bytes = 0
        self._interrupted = False
        self._joining = False
        self._newest: dict[str, Position] = {}
        self._loss_check = LossCheck()
        self._epoch = 0
        self.start(self._run())

    async def next_batch(self) -> LiveBatch:
        await self.until(lambda: (self._buffer or self._interrupted) and not self._joining)
        batch = LiveBatch(tuple(self._buffer), self._interrupted)
        self._buffer.clear()
        self._bytes = 0
        self._interrupted = False
        return batch

    async def _run(self) -> None:
        attempt = 0
        while True:
            connection = await self._link.connected()
            try:
                await self._serve(connection)
            except BrokerUnavailable as error:
                log.warning("live_interrupted", log=self._log_name, reason=error.reason)
            attempt = 0 if connection.lost.is_set() else attempt + 1
            await asyncio.sleep(delay_s(attempt))

    async def _serve(self, connection: Connection) -> None:
        state = await self._streams.state(connection, self._log_name)
        epoch = state.epoch
        if epoch != self._epoch:
            # In a new log positions may be used again.
            self._newest.clear()
            self._epoch = epoch

        def on_message(subject: str, _reply: str, headers: bytes, payload: bytes) -> None:
            self._on_message(NatsMessage(subject, payload, headers, epoch))

        self._joining = True
        subscription = connection.subscribe(self._pattern, on_message, self.fail)
        try:
            try:
                # An answer proves that the server took the subscription that was sent before.
                state = await self._streams.state(connection, self._log_name)
            finally:
                # What comes on a new subscription is handed out with the news that something may
                # have been missed before it, never earlier.
                self._joining = False
                self._interrupted |= self.joined.is_set()
                self.changed.ring()
            self.has_joined()
            await self._check(connection, state)
        finally:
            connection.unsubscribe(subscription)

    async def _check(self, connection: Connection, state: LogState) -> None:
        """Look now and then whether everything stored was seen; returns when the connection is."""
        self._loss_check = LossCheck()
        since: int | None = None
        while not connection.lost.is_set():
            try:
                newest = await state.newest()
                seq = 0 if newest is None else newest.seq
                if since is None or seq < since:
                    # What was stored before is not this subscription's.
                    since = seq
                    if newest is None or self._looked_up(newest) is None:
                        self._loss_check.start(seq)
                elif newest is not None and seq > since and await self._missed(connection, newest):
                    log.warning("live_missed", log=self._log_name, newest=seq)
                    since = seq
                    self._interrupted = True
                    self.changed.ring()
            except BrokerUnavailable as error:
                # The log does not answer; what is published is seen all the same.
                log.debug("live_not_checked", log=self._log_name, reason=error.reason)
            await wait_for(connection.lost, self._check_s)

    def _looked_up(self, newest: NatsMessage) -> bool | None:
        return self._loss_check.missed(newest.subject, newest.position, newest.seq)

    async def _missed(self, connection: Connection, newest: NatsMessage) -> bool:
        subject, position = newest.subject, newest.position
        if self._newest.get(subject, _NEVER) < position:
            await wait_for(connection.lost, _ON_ITS_WAY_S)
            if self._newest.get(subject, _NEVER) < position:
                return not connection.lost.is_set()
        return self._looked_up(newest) or False

    def _on_message(self, message: NatsMessage) -> None:
        subject = message.subject
        position = message.position
        newest = self._newest.get(subject)
        if newest is not None and position <= newest:
            return
        self._newest[subject] = position
        self._loss_check.saw(subject, position)
        size = len(message.payload)
        if len(self._buffer) >= _MAX_RECORDS or self._bytes + size > _MAX_BYTES:
            log.warning("live_overflow", log=self._log_name, dropped=len(self._buffer))
            self._buffer.clear()
            self._bytes = 0
            self._interrupted = True
        self._buffer.append(message)
        self._bytes += size
        self.changed.ring()
