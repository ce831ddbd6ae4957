"""Keeps a line's lease in the raw log: asks for the newest beat, and writes this line's own."""

from __future__ import annotations

import asyncio
import time
from typing import Self

import structlog

from services.common.clock import now_us
from services.common.errors import BrokerUnavailable, PlatformError
from services.common.stream import Broker, Message, Position, Publisher, Record
from services.common.subjects import pulse_key, raw_subject
from services.common.wire import (
    RECORD_VERSION,
    UNREADABLE,
    PulseBody,
    RawRecord,
    decode_raw,
    encode,
    to_raw,
)
from services.ingestor.lines.lease import Beat, Lease, Role

log = structlog.get_logger(__name__)

# Questions in the time after which another line takes over.
_ASKED_IN_TIME = 8
_NO_PRODUCTS = to_raw(PulseBody([]))


class LeaseLost(PlatformError):
    """Another line has taken over; `term` is its."""

    def __init__(self, line: str, term: int) -> None:
        self.line = line
        self.term = term
        super().__init__(f"line {line} writes since term {term}")


class LineKeeper:
    """One line's, while it is entered.

    Args:
        broker: open, with the raw log made.
        epoch: of the raw log.
        venue: of the products.
        pair: what the lines of the same products have in common.
        line: this one's name.
        takeover_s: how long a line is silent before another one takes over.
    """

    def __init__(
        self, broker: Broker, epoch: int, venue: str, pair: str, line: str, takeover_s: float
    ) -> None:
        self._broker = broker
        self._epoch = epoch
        self._key = pulse_key(venue, f"line-{pair}")
        self._subject = raw_subject(self._key)
        self._period_s = takeover_s / _ASKED_IN_TIME
        self._patience_s = takeover_s / 2
        self._lease = Lease(line, now_us(), takeover_s)
        self._active = asyncio.Event()
        self._publisher: Publisher | None = None

    @property
    def role(self) -> Role:
        return self._lease.role

    def may_write(self) -> bool:
        """Whether this line's records may go to the log now (`Lease.may_write`)."""
        return self._lease.may_write(time.monotonic())

    async def active(self) -> None:
        """Return once this line writes."""
        await self._active.wait()

    async def __aenter__(self) -> Self:
        # A beat needs none before it, and one that another line's stands above is no loss.
        self._publisher = await self._broker.publisher(predecessor=lambda _beat: None)
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
            await asyncio.sleep(self._period_s)

    async def release(self) -> None:
        """Let go, so that another line takes over at once; call it when all else is durable."""
        beat = self._lease.release()
        if beat is not None and self._publisher is not None:
            self._write(beat)
            await self._publisher.flush()
            log.info("lease_released", term=beat.term)

    async def _ask(self) -> None:
        was = self._lease.role
        try:
            async with asyncio.timeout(self._patience_s):
                last = await self._broker.last(self._subject)
        except (TimeoutError, BrokerUnavailable):
            self._lease.missed(time.monotonic())
            return
        self._lease.heard(None if last is None else _read(last), time.monotonic())
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
        raw = RawRecord(
            RECORD_VERSION,
            "pulse",
            *self._key,
            *position,
            None,
            beat.since,
            beat.line,
            _NO_PRODUCTS,
        )
        publisher.offer(Record(self._subject, encode(raw), position))


def _read(message: Message) -> Beat | None:
    try:
        raw = decode_raw(message.payload)
    except UNREADABLE as error:
        # Somebody else's, and below whatever this line writes.
        log.warning("beat_unreadable", reason=str(error))
        return None
    return Beat.at(message.position.seq, raw.line, raw.ts_recv)
