"""What streams tell whoever counts."""

from __future__ import annotations

from typing import Protocol

from services.common.subjects import StreamKey


class StreamEvents(Protocol):
    """Called rarely: streams count ordinary messages themselves."""

    def gap_found(self, key: StreamKey, cause: str, /) -> None:
        """Something is missing, or a book is suspect."""

    def resynced(self, key: StreamKey, outcome: str, seconds: float, /) -> None:
        """A resync ended: `refilled`, `late`, `snapshot`, `open`, `lost` or `renumbered`."""

    def late(self, key: StreamKey, outcome: str, count: int, /) -> None:
        """Trades of an announced gap were `found`, or given up (`denied`, `expired`, ...)."""

    def dropped(self, key: StreamKey, reason: str, count: int, /) -> None:
        """Messages that were not passed on although they were new."""
