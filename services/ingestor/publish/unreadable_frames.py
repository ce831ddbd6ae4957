"""Messages of the venue that cannot be used, as dead letters for whoever investigates them."""

from __future__ import annotations

from services.common.stream.dead_letters import DeadLetters
from services.common.wire import RECORD_VERSION, Parked
from services.ingestor.metrics import Metrics

# Of a malformed message this much is kept: enough to see what it was.
_KEPT_CHARACTERS = 65_536
# How many wait for the broker; of a flood the newest are as telling as all.
MAX_WAITING = 256


class UnreadableFrames:
    """Counts each message by its reason and hands it to the dead letters."""

    def __init__(self, dead_letters: DeadLetters, metrics: Metrics) -> None:
        self._dead_letters = dead_letters
        self._metrics = metrics

    def park(self, reason: str, original: bytes, ts: int) -> None:
        """Keep a message that was received at `ts`, µs."""
        self._metrics.invalid(reason)
        text = original[:_KEPT_CHARACTERS].decode(errors="replace")
        self._dead_letters.add(Parked(RECORD_VERSION, reason, "", "", ts, text))
