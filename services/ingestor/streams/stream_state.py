"""A stream's state, written into its log when it changes. Pure.

Whoever sees a reason raises it by name (`raise_`) and takes it back (`clear`); the gravest one
that stands is the stream's state. A status the broker had no room for is offered again by `retry`.
"""

from __future__ import annotations

from services.common.wire import StreamState
from services.ingestor.streams.raw_writer import RawStreamWriter

# Gravest first. `quiet` is no fault: the venue is alive and says nothing on this stream.
_GRAVITY: tuple[StreamState, ...] = ("down", "stale", "resyncing", "quiet")


class StreamStateTracker:
    """One stream's state (`value`), since when (µs) and why. First `down`."""

    __slots__ = ("_reasons", "_said", "_writer", "_written", "evidence", "since", "value")

    def __init__(self, writer: RawStreamWriter, now: int) -> None:
        self._writer = writer
        self._reasons: dict[StreamState, str] = {"down": "not connected yet"}
        self._written = True
        # Said only if the first connection fails: the log may still claim that all is well.
        self._said = False
        self.value: StreamState = "down"
        self.evidence = "not connected yet"
        self.since = now

    def raise_(self, state: StreamState, evidence: str, now: int) -> None:
        """`state` holds from now on, for the reason given."""
        self._reasons[state] = evidence
        self._settle(evidence, now)

    def clear(self, state: StreamState, evidence: str, now: int) -> None:
        """`state` holds no longer; `evidence` says what ended it."""
        if self._reasons.pop(state, None) is not None:
            self._settle(evidence, now)

    def repeat(self, now: int) -> None:
        """Write the state again: nobody can read it any more where it was written."""
        self._write(now)

    def retry(self, now: int) -> None:
        """Offer a status again that could not be written."""
        if not self._written:
            self._write(now)

    def _settle(self, evidence: str, now: int) -> None:
        worst = next((state for state in _GRAVITY if state in self._reasons), None)
        state: StreamState = worst or "live"
        if state == self.value and self._written and self._said:
            return
        if state != self.value:
            self.value = state
            self.since = now
        # The reason that still stands says more than the one that just went.
        self.evidence = self._reasons[state] if worst else evidence
        self._write(now)

    def _write(self, now: int) -> None:
        self._said = True
        self._written = self._writer.status(self.value, self.since, self.evidence, now)
