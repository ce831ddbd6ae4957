"""What a stream's numbers say: one sequencer, driven by a rule per channel. Pure.

It is fed every number the venue sends and answers with a verdict; it never decides what to do
about it. The caller says with `advance` which numbers it has passed on, so that what could not be
passed on shows up as a gap by itself.

| numbering   | channel (Coinbase)       | in order     | gap           |
|-------------|--------------------------|--------------|---------------|
| CONTIGUOUS  | trades by `trade_id`     | held + 1     | above held + 1 |
| CONTIGUOUS  | book of orders (`full`) by `sequence` | held + 1 | above held + 1 |
| INCREASING  | ticker by `sequence`     | above held   | never: jumps are normal there |
| BY_TIME     | book by update time, µs  | held or above | never; going back proves a reordering |

A number at or below the held one is a duplicate, unless its event is clearly newer than the held
number's event: then the venue's numbering has started over. One such message may be a broken one,
so `RESTART_WITNESSES` of them in a row are needed. A time is no number: `level2` sends one message
for each level that an event of its matching engine changes, all with the event's time.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

RESTART_WITNESSES = 3
# How much newer an event with an old number must be before it counts as a contradiction.
RESTART_TOLERANCE_US = 1_000_000


class Numbering(Enum):
    CONTIGUOUS = "contiguous"
    INCREASING = "increasing"
    BY_TIME = "by_time"


# What proves continuity on each canonical channel.
RULES = {
    "trades": Numbering.CONTIGUOUS,
    "ticker": Numbering.INCREASING,
    "book": Numbering.BY_TIME,
}
# The same channel, where it is made of every order's messages.
ORDERS_RULE = Numbering.CONTIGUOUS


class Verdict(Enum):
    """What a number says where it leaves no hole that numbers could name."""

    # Pass it on, then `advance` to it.
    IN_ORDER = "in_order"
    # It was seen before, or comes too late; drop it.
    DUPLICATE = "duplicate"
    # It is older than the one before; something may be missing and no number can say what.
    REORDERED = "reordered"
    # The venue's numbering began anew.
    RESTARTED = "restarted"


@dataclass(frozen=True, slots=True)
class Gap:
    """`first` to `last`, both included, exist at the venue and have not been seen."""

    first: int
    last: int

    @property
    def count(self) -> int:
        return self.last - self.first + 1


# An enum's member costs a lookup each time it is named, and these are compared for every message.
IN_ORDER, DUPLICATE = Verdict.IN_ORDER, Verdict.DUPLICATE
REORDERED, RESTARTED = Verdict.REORDERED, Verdict.RESTARTED


@dataclass(slots=True, eq=False)
class Sequencer:
    """One stream's numbers. `held` is the last one passed on, None before the first."""

    _rule: Numbering
    held: int | None = None  # the last number passed on before this sequencer was made
    # Event time of that number, µs; 0 when unknown (no restart is then concluded before a first
    # number was passed on).
    _held_time: int = 0
    _witnesses: int = 0
    _ahead: int | None = None

    def observe(self, number: int, time: int = 0) -> Verdict | Gap:
        """Judge a message's number; `time` is its event time in µs. Changes nothing held."""
        held = self.held
        if held is None:
            return IN_ORDER
        if number > held:
            if self._rule is not Numbering.CONTIGUOUS or number == held + 1:
                return IN_ORDER
            return Gap(held + 1, number - 1)
        if self._rule is Numbering.BY_TIME:
            return IN_ORDER if number == held else REORDERED
        return self._behind(time)

    def witness(self, number: int, time: int = 0) -> Verdict | Gap:
        """Judge a number that the venue says it has reached, without the message itself."""
        held = self.held
        if held is None or number == held:
            return IN_ORDER
        return Gap(held + 1, number) if number > held else self._behind(time)

    def heartbeat(self, number: int) -> Verdict | Gap:
        """Like `witness`, for a mark that may overtake messages still on their way.

        A gap is reported when the previous heartbeat's mark has still not been reached.
        """
        ahead, held = self._ahead, self.held
        if held is None or number <= held:
            self._ahead = None
            return IN_ORDER
        self._ahead = number
        if ahead is None or ahead <= held:
            return IN_ORDER
        return Gap(held + 1, ahead)

    def advance(self, number: int, time: int = 0) -> None:
        """`number` was passed on, or is given up: what comes next must be above it."""
        self.held = number
        if time:
            self._held_time = time
        self._witnesses = 0

    def outlived(self, time: int) -> bool:
        """Whether an event time is clearly newer than that of the held number."""
        return bool(time and self._held_time) and time > self._held_time + RESTART_TOLERANCE_US

    def restart(self, held: int, time: int = 0) -> None:
        """Go on in a new numbering whose last number passed on is `held`."""
        self._ahead = None
        self._held_time = time
        self.advance(held)

    def _behind(self, time: int) -> Verdict | Gap:
        if not self.outlived(time):
            return DUPLICATE
        self._witnesses += 1
        return DUPLICATE if self._witnesses < RESTART_WITNESSES else RESTARTED
