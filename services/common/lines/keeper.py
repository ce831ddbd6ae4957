"""Keeps a line's lease in a log: asks for the newest beat, and writes this line's own."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Protocol, Self

import structlog

from services.common.clock import now_us
from services.common.errors import BrokerError, BrokerUnavailable, PlatformError
from services.common.lines.lease import Beat, Lease, Role
from services.common.stream import Broker, Message, Position, Publisher, Record
from services.common.subjects import StreamKey, log_of, raw_subject, tick_subject
from services.common.wire import (
    RECORD_VERSION,
    UNREADABLE,
    Pulse,
    PulseBody,
    RawRecord,
    decode_pulse,
    decode_raw,
    encode,
    to_raw,
)

log = structlog.get_logger(__name__)

# Questions in the time after which another line takes over.
_ASKED_IN_TIME = 8
_NO_PRODUCTS = to_raw(PulseBody([]))


class LeaseLost(PlatformError):
    """Another line has taken over; `term` is its."""

    def __init__(self, line: str, term: int) -> None:
        self.line = line
        self.term = term
        super().__init__(f"line {line} works since term {term}")


class BeatForm(Protocol):
    """A beat as a record of a log: a pulse without products, which all readers pass over."""

    @property
    def subject(self) -> str:
        """Where the beats of these lines are, and nothing else."""

    def payload(self, beat: Beat, position: Position) -> bytes:
        """The record of a beat."""

    def named(self, payload: bytes) -> tuple[str, int]:
        """Line and `since` of a record's beat; raises one of UNREADABLE."""


@dataclass(frozen=True)
class RawBeats:
    """In the raw log, for those who may write there."""

    key: StreamKey  # of a pulse

    @property
    def subject(self) -> str:
        return raw_subject(self.key)

    def payload(self, beat: Beat, position: Position) -> bytes:
        place = (*self.key, *position)
        tail = (None, beat.since, beat.line, _NO_PRODUCTS)
        return encode(RawRecord(RECORD_VERSION, "pulse", *place, *tail))

    def named(self, payload: bytes) -> tuple[str, int]:
        raw = decode_raw(payload)
        return raw.line, raw.ts_recv


@dataclass(frozen=True)
class TickBeats:
    """In the tick log of a shard, likewise."""

    shard: int
    key: StreamKey  # of a pulse

    @property
    def subject(self) -> str:
        return tick_subject(self.shard, self.key)

    def payload(self, beat: Beat, _position: Position) -> bytes:
        return encode(Pulse(RECORD_VERSION, self.key.venue, beat.line, self.shard, beat.since, []))

    def named(self, payload: bytes) -> tuple[str, int]:
        pulse = decode_pulse(payload)
        return pulse.line, pulse.ts_ingest


class LineKeeper:
    """One line's, while it is entered.

    Args:
        broker: open, with the log made.
        form: where the beats are, the same for all of these lines.
        line: this one's name.
        takeover_s: how long a line is silent before another one takes over.
    """

    def __init__(self, broker: Broker, form: BeatForm, line: str, takeover_s: float) -> None:
        self._broker = broker
        self._form = form
        self._log = log_of(form.subject)
        self._takeover_s = takeover_s
        self._lease = Lease(line, now_us(), takeover_s)
        self._active = asyncio.Event()
        self._publisher: Publisher | None = None
        # The log's, and when it is asked for again: a log that was lost begins a new one.
        self._epoch = 0
        self._epoch_due = float("-inf")

    @property
    def role(self) -> Role:
        return self._lease.role

    @property
    def stands_by(self) -> bool:
        """Whether another line works, as far as is known."""
        return self._lease.stands_by

    def may_write(self) -> bool:
        """Whether this line's records may go to the log now (`Lease.may_write`)."""
        return self._lease.may_write(time.monotonic())

    async def active(self) -> None:
        """Return once this line is the one that works."""
        await self._active.wait()

    async def __aenter__(self) -> Self:
        self._publisher = await self._broker.publisher()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._publisher is not None:
            await self._publisher.aclose()

    async def run(self) -> None:
        """Until cancelled.

        Raises:
            LeaseLost: another line has taken over from this one.
            BrokerFailed: the publisher of the beats broke.
        """
        while True:
            await self._ask()
            beat = self._lease.due(time.monotonic())
            if beat is not None:
                self._write(beat)
            await asyncio.sleep(self._takeover_s / _ASKED_IN_TIME)

    async def release(self) -> None:
        """Let go, so that another line takes over at once; call it when all else is durable.

        A log that does not take it in time is not waited for: the others then hear a silence.
        """
        beat, publisher = self._lease.release(), self._publisher
        if beat is None or publisher is None:
            return
        try:
            async with asyncio.timeout(self._takeover_s):
                # The beat before may be on its way still.
                await publisher.flush()
                self._write(beat)
                await publisher.flush()
        except (TimeoutError, BrokerError) as error:
            log.warning("lease_not_released", term=beat.term, reason=str(error) or "no answer")
        else:
            log.info("lease_released", term=beat.term)

    async def _ask(self) -> None:
        was, asked = self._lease.role, time.monotonic()
        try:
            async with asyncio.timeout(self._takeover_s / 2):
                if asked >= self._epoch_due:
                    self._epoch = await self._broker.log_epoch(self._log)
                    self._epoch_due = asked + self._takeover_s
                last = await self._broker.last(self._form.subject)
        except (TimeoutError, BrokerUnavailable):
            self._lease.missed(asked)
            return
        found = None if last is None else self._read(last)
        self._lease.heard(found, asked, time.monotonic())
        newest = self._lease.newest
        if newest is None or self._lease.role is was:
            return
        if self._lease.role is Role.ACTIVE:
            log.info("lease_taken", term=newest.term)
            self._active.set()
        elif was is Role.ACTIVE:
            log.warning("lease_lost", line=newest.line, term=newest.term)
            raise LeaseLost(newest.line, newest.term)

    def _write(self, beat: Beat) -> None:
        publisher = self._publisher
        # While the broker is away one waits, and it says enough.
        if publisher is None or publisher.stats().in_flight:
            return
        position = Position(self._epoch, beat.seq)
        payload = self._form.payload(beat, position)
        publisher.offer(Record(self._form.subject, payload, position))

    def _read(self, message: Message) -> Beat | None:
        try:
            line, since = self._form.named(message.payload)
        except UNREADABLE as error:
            # Somebody else's, and below whatever this line writes.
            log.warning("beat_unreadable", reason=str(error))
            return None
        return Beat.at(message.position.seq, line, since)
