"""Messages that nobody can use, on `market.invalid`: a queue of them, and the writing.

That subject is the one which several services write at the same time.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence

import msgspec
import structlog

from services.common.errors import BrokerFailed, BrokerUnavailable, PositionLost, RecordRefused
from services.common.resilience import Backoff
from services.common.stream.broker import Broker, Publisher
from services.common.stream.records import Position, Record
from services.common.subjects import INVALID_SUBJECT
from services.common.wire import Parked, encode

log = structlog.get_logger(__name__)

# Of an original that is too large for the broker this much is kept, characters, or a quarter of it
# for as long as that is too much.
_KEPT = 64 * 1024


class InvalidLog:
    """Writes parked messages, each at least once, whoever else writes.

    A subject's positions have to increase, and two writers that chose the same one would lose a
    message without a word (B3). So what was written is read back, and what is not there is written
    again above whatever took its place. This costs a read for each `write`: parking is rare.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._publisher: Publisher | None = None
        # What the log will never hold, until the `write` that sent it has seen so.
        self._refused: set[bytes] = set()

    async def write(self, parked: Sequence[Parked]) -> None:
        """Return once all are stored.

        A caller that is cancelled or gets an exception may call it again with the same ones; some
        may then be stored twice.

        Raises:
            BrokerUnavailable: the broker does not answer.
            BrokerClosed: the broker was closed.
            BrokerFailed: its publisher broke, and so did another one that was opened then.
        """
        waiting = list(parked)
        broke = False
        while waiting:
            newest = await self._broker.last(INVALID_SUBJECT)
            held = newest.position.seq if newest is not None else 0
            cursor = await self._broker.seek(INVALID_SUBJECT, Position(0, held))
            try:
                sent = await self._send(waiting, held)
            except BrokerFailed as error:
                await self.aclose()
                if broke:
                    raise
                broke = True
                log.warning("parking_again", reason=str(error))
                continue
            stored = await self._stored_after(cursor)
            waiting = [
                one
                for one, payload in zip(waiting, sent, strict=True)
                if payload and payload not in stored and payload not in self._refused
            ]
            self._refused.difference_update(sent)
            if waiting:
                log.info("parked_again", count=len(waiting))

    async def aclose(self) -> None:
        publisher, self._publisher = self._publisher, None
        if publisher is not None:
            await publisher.aclose()

    async def _send(self, parked: Sequence[Parked], seq: int) -> list[bytes]:
        if self._publisher is None:
            self._publisher = await self._broker.publisher(on_refused=self._on_refused)
        # Nothing was received later than now: a corrupt time must not use up the numbers that all
        # writers share.
        now = time.time_ns() // 1000
        sent = []
        for one in parked:
            seq = max(min(one.ts_recv, now), seq + 1)
            sent.append(await self._send_one(self._publisher, one, Position(0, seq)))
        await self._publisher.flush()
        return sent

    def _on_refused(self, record: Record, _error: RecordRefused) -> None:
        self._refused.add(record.payload)

    @staticmethod
    async def _send_one(publisher: Publisher, one: Parked, position: Position) -> bytes:
        """What was sent of it; empty when the broker would not have it however short."""
        kept = _KEPT
        while True:
            payload = encode(one)
            try:
                await publisher.send(Record(INVALID_SUBJECT, payload, position))
            except RecordRefused as error:
                if not one.original:
                    log.error("not_parked", reason=str(error), parked=one.reason[:200])
                    return b""
                one = msgspec.structs.replace(one, original=one.original[:kept])
                kept //= 4
            else:
                return payload

    async def _stored_after(self, cursor: str) -> set[bytes]:
        stored: set[bytes] = set()
        while True:
            try:
                page = await self._broker.read(INVALID_SUBJECT, cursor)
            except PositionLost:
                # The log was lost and made anew: whatever was in it has to be written again.
                return set()
            stored.update(bytes(message.payload) for message in page.messages)
            if page.at_head:
                return stored
            cursor = page.cursor


_FIRST_RETRY_S = 0.05
_LONGEST_RETRY_S = 1.0


class DeadLetters:
    """`add` never waits; `flush` and `run` write.

    Args:
        invalid: where they are written; closed by whoever opened it.
        keep: how many wait at most, of more the newest; None keeps all of them.
    """

    def __init__(self, invalid: InvalidLog, *, keep: int | None = None) -> None:
        self._invalid = invalid
        self._waiting: deque[Parked] = deque(maxlen=keep)
        self._some = asyncio.Event()
        self._writing = asyncio.Lock()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def first(self) -> Parked | None:
        """The one that waits longest."""
        return self._waiting[0] if self._waiting else None

    def add(self, letter: Parked) -> None:
        self._waiting.append(letter)
        self._some.set()

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await self._some.wait()
            await self.flush()

    async def flush(self) -> None:
        """Return when all that were added before are stored, however long the broker takes.

        Raises BrokerClosed and BrokerFailed, as `InvalidLog.write` does.
        """
        if not self._waiting and not self._writing.locked():
            self._some.clear()
            return
        backoff = Backoff(_FIRST_RETRY_S, _LONGEST_RETRY_S)
        # Whoever else writes them now has not finished yet.
        async with self._writing:
            self._some.clear()
            while self._waiting:
                batch = list(self._waiting)
                try:
                    await self._invalid.write(batch)
                except BrokerUnavailable as error:
                    if backoff.attempts == 0:
                        log.warning("not_parked_yet", count=len(batch), reason=str(error))
                    await asyncio.sleep(backoff.next_delay())
                    continue
                backoff.reset()
                written = set(map(id, batch))
                left = [letter for letter in self._waiting if id(letter) not in written]
                self._waiting.clear()
                self._waiting.extend(left)
