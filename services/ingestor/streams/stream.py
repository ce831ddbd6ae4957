"""What the four kinds of stream have in common. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from services.common.subjects import StreamKey
from services.ingestor.integrity.sequencer import Sequencer
from services.ingestor.streams.raw_writer import RawStreamWriter
from services.ingestor.streams.stream_state import StreamStateTracker


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


class Stream:
    """One stream, from the venue's messages to raw records.

    Args:
        writer: where records go.
        state: the stream's state.
        sequencer: judges its numbers; holds the last one that is in the log.
        ask: called when something has to be fetched (again).
        events: who counts.
    """

    def __init__(
        self,
        writer: RawStreamWriter,
        state: StreamStateTracker,
        sequencer: Sequencer,
        ask: Callable[[], None],
        events: StreamEvents,
    ) -> None:
        self.writer = writer
        self.state = state
        self._sequencer = sequencer
        self._ask = ask
        self._events = events
        self.messages = 0
        self.duplicates = 0
        self.gaps = 0

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
