"""What the four kinds of stream have in common, and a stream's state. Pure.

The state is written into the stream's log when it changes. Whoever sees a reason raises it by name
(`raise_`) and takes it back (`clear`); the gravest one that stands is the stream's state. A status
the broker had no room for is offered again by `retry`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from services.common.subjects import StreamKey
from services.common.wire import StreamState
from services.ingestor.integrity.sequencer import Sequencer
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


class StreamEvents(Protocol):
    """Who counts. Called rarely: streams count ordinary messages themselves."""

    def gap_found(self, key: StreamKey, cause: str, /) -> None:
        """Something is missing, or a book is suspect."""

    def resynced(self, key: StreamKey, outcome: str, seconds: float, /) -> None:
        """A resync ended: `refilled`, `late`, `snapshot`, `open`, `lost` or `renumbered`."""

    def late(self, key: StreamKey, outcome: str, count: int, /) -> None:
        """Trades of an announced gap were `found`, or given up (`denied`, `expired`, ...)."""

    def dropped(self, key: StreamKey, reason: str, count: int, /) -> None:
        """Messages that were not passed on although they were new."""


# What each stream is made of: see `Stream`.
StreamParts = tuple[
    RawStreamWriter, StreamStateTracker, Sequencer, Callable[[], None], StreamEvents
]


@dataclass(slots=True, eq=False)
class Stream:
    """One stream, from the venue's messages to raw records."""

    writer: RawStreamWriter  # where records go
    state: StreamStateTracker  # the stream's state
    _sequencer: Sequencer  # judges its numbers; holds the last one that is in the log
    _ask: Callable[[], None]  # called when something has to be fetched (again)
    _events: StreamEvents  # who counts
    messages: int = 0
    duplicates: int = 0
    gaps: int = 0

    @property
    def held(self) -> int:
        """How many messages wait for others before them, or for a base."""
        return 0

    def extra(self) -> dict[str, int]:
        """Counters that only this kind of stream has."""
        return {}

    def _found(self, cause: str) -> None:
        self.gaps += 1
        self._events.gap_found(self.writer.key, cause)

    def _resynced(self, outcome: str, since: int, ts: int) -> None:
        self._events.resynced(self.writer.key, outcome, max(0, ts - since) / 1e6)

    def _dropped(self, reason: str, count: int = 1) -> None:
        self._events.dropped(self.writer.key, reason, count)


class BasedStream(Stream):
    """A book: it stands on a base, and after a loss only a new one helps."""

    # Why a new base is needed, and since when; None while the book is proven.
    _cause: str | None = "start"
    _since = 0
    resyncs = 0

    @property
    def suspect(self) -> bool:
        """Whether a new base is awaited."""
        return self._cause is not None

    def lost(self, ts: int) -> None:
        """The connection is gone: whatever comes next needs a new base."""
        if self._cause is None:
            self._since = ts
        if self._cause != "start":
            self._cause = "reconnect"

    def distrust(self, cause: str, evidence: str, ts: int) -> None:
        """Something says that updates were lost; the first such sign asks for a new base.

        A base already asked for comes after whatever was lost before now.
        """
        if self._cause is None:
            self._cause = cause
            self._since = ts
            self._found(cause)
            self.state.raise_("resyncing", evidence, ts)
            self._ask()

    def unbase(self, cause: str, evidence: str, ts: int) -> None:
        """Nothing may follow but a new base."""
        self._cause = None
        self.distrust(cause, evidence, ts)

    def _refused(self, ts: int) -> None:
        """The broker has no room: what it did not take makes the next base necessary."""
        self._dropped("broker_away")
        self.unbase("broker_away", "updates could not be published", ts)
