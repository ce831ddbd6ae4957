"""What a connection pays for its commands, and when they are abuse. Pure."""

from __future__ import annotations

from services.common.resilience import TokenBucket

# What a command costs of its sender's rate beside the one that each costs: for each stream that it
# names, and for so many bytes that have to be read.
_STREAM_COMMANDS = 0.2
_COMMAND_BYTES = 4096
# Strikes that come at once, and in the long run, before a connection ends.
_STRIKES = 20.0
_STRIKES_PER_S = 1.0
# What counts as one strike, and what as a fraction of it.
REFUSED_FRAME = 1.0
OVER_THE_RATE = 0.02


def retry_after_ms(wait_s: float) -> int:
    """What who has to wait is told: whole milliseconds after which `wait_s` is surely over.

    Also by a timer that is early by one, as those of event loops and browsers may be: who comes
    back as told is not refused again.
    """
    return int(wait_s * 1000) + 2


class CommandRate(TokenBucket):
    """Commands that a connection may send; `acquire` takes the one that each of them costs."""

    __slots__ = ()

    def charge_reading(self, now: float, text: str) -> None:
        """Charge for the size of a command, before it is read."""
        self.charge(now, len(text) // _COMMAND_BYTES)

    def charge_streams(self, now: float, streams: int) -> None:
        """Charge for the streams that a command names, before anything is done about them."""
        self.charge(now, (streams - 1) * _STREAM_COMMANDS)


class Strikes(TokenBucket):
    """Refused frames and commands beyond the rate, of one connection."""

    __slots__ = ()

    def __init__(self, now: float) -> None:
        super().__init__(_STRIKES_PER_S, _STRIKES, now)

    def too_many(self, now: float, weight: float) -> bool:
        """Count a strike of this weight; whether it is one too many."""
        return self.acquire(now, weight) > 0
