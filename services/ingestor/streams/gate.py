"""Before the streams: what a single message claims, and nothing else shows, has to wait. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from services.ingestor.integrity.plausibility import JumpGuard
from services.ingestor.venues.base import Event, Kind

IMPLAUSIBLE = "implausible_number"

# Trades that are lost at once are never so many; an outage's last trade is followed by others, or
# by the next heartbeat.
_TRADE_IDS = 1_000
_TRADE_IDS_PER_S = 1_000
# A heartbeat names the product's sequence each second; the largest step seen in one is 2,152.
_SEQUENCES = 10_000
_SEQUENCES_PER_S = 10_000
# Times further ahead of our clock than this are no times.
_FUTURE_US = 86_400_000_000
# More than a busy product says between three heartbeats; what is parked of a real jump is fetched.
_MAX_WITHHELD = 512

# Takes a reason, a message and when it came.
Park = Callable[[str, bytes, int], None]


class Arrived(NamedTuple):
    event: Event
    body: bytes
    ts: int


class Gate:
    """One product's messages that carry numbers.

    Args:
        trade_id: the last one known; None when none is.
        sequence: the product's, likewise.
        park: told of messages that nothing has confirmed.
        at: when these two were reached, µs; 0 when that is not known.
    """

    def __init__(self, trade_id: int | None, sequence: int | None, park: Park, at: int = 0) -> None:
        self._trades = JumpGuard(_TRADE_IDS, trade_id, _TRADE_IDS_PER_S, at=at)
        self._sequences = JumpGuard(_SEQUENCES, sequence, _SEQUENCES_PER_S, at=at)
        self._park = park
        self._withheld: list[Arrived] = []

    @property
    def withheld(self) -> int:
        """How many messages wait for others that confirm their number."""
        return len(self._withheld)

    def admit(self, event: Event, body: bytes, ts: int) -> Sequence[Arrived]:
        """What may be passed on now, in order: nothing, the event, or what it confirmed before it.

        A heartbeat always is, without the marks that are not believed.
        """
        if event.time > ts + _FUTURE_US:
            event = _timeless(event)
        arrived = Arrived(event, body, ts)
        if event.kind is Kind.HEARTBEAT:
            admitted = [self._heartbeat(arrived)]
        elif self._believed(arrived.event, ts):
            admitted = [self._without_wild_trade(arrived)]
        else:
            self._withhold(arrived)
            return ()
        if self._withheld:
            return [*self._confirmed(), *admitted]
        return admitted

    def _heartbeat(self, arrived: Arrived) -> Arrived:
        event, ts = arrived.event, arrived.ts
        witness = ("heartbeat", event.time)
        sequence = _mark(self._sequences, event.number, witness, ts)
        trade_id = _mark(self._trades, event.trade_id, witness, ts) if event.trade_id > 0 else 0
        if sequence == event.number and trade_id == event.trade_id:
            return arrived
        changed = msgspec.structs.replace(event, number=sequence, trade_id=trade_id)
        return arrived._replace(event=changed)

    def _believed(self, event: Event, ts: int) -> bool:
        kind = event.kind
        if kind is Kind.TRADE or kind is Kind.TRADE_SEED:
            believed = self._trades.believes(event.number, ("trade", event.number), ts)
        elif kind is Kind.TICKER:
            believed = self._sequences.believes(event.number, ("ticker", event.number), ts)
        else:
            believed = True
        if event.order is not None:
            sequence = event.order.sequence
            believed = self._sequences.believes(sequence, ("order", sequence), ts) and believed
        return believed

    def _without_wild_trade(self, arrived: Arrived) -> Arrived:
        event = arrived.event
        if (
            event.kind is not Kind.TICKER
            or event.trade_id <= 0
            or self._trades.believes(event.trade_id, ("ticker", event.number), arrived.ts)
        ):
            return arrived
        return arrived._replace(event=msgspec.structs.replace(event, trade_id=0))

    def _withhold(self, arrived: Arrived) -> None:
        self._withheld.append(arrived)
        if len(self._withheld) > _MAX_WITHHELD:
            oldest = self._withheld.pop(0)
            self._park(IMPLAUSIBLE, oldest.body, oldest.ts)

    def _confirmed(self) -> list[Arrived]:
        """Those that are believed by now; those that nobody confirms any more are parked."""
        waiting, self._withheld = self._withheld, []
        confirmed: list[Arrived] = []
        for arrived in waiting:
            numbers = self._numbers(arrived.event)
            if all(guard.reaches(number) for guard, number in numbers):
                confirmed.append(self._without_wild_trade(arrived))
            elif all(guard.reaches(number) or guard.claims(number) for guard, number in numbers):
                self._withheld.append(arrived)
            else:
                self._park(IMPLAUSIBLE, arrived.body, arrived.ts)
        return confirmed

    def _numbers(self, event: Event) -> list[tuple[JumpGuard, int]]:
        """Those that have to be believed before the event is."""
        found: list[tuple[JumpGuard, int]] = []
        if event.kind is Kind.TRADE or event.kind is Kind.TRADE_SEED:
            found.append((self._trades, event.number))
        elif event.kind is Kind.TICKER:
            found.append((self._sequences, event.number))
        if event.order is not None:
            found.append((self._sequences, event.order.sequence))
        return found


def _mark(guard: JumpGuard, number: int, witness: tuple[str, int], ts: int) -> int:
    """A heartbeat's number, or 0 when it is not believed."""
    if not guard.believes(number, witness, ts, is_mark=True):
        return 0
    guard.doubt()
    return number


def _timeless(event: Event) -> Event:
    """The event, without a time that cannot be one."""
    order = event.order
    return msgspec.structs.replace(
        event, time=0, order=None if order is None else order._replace(time=0)
    )
