"""What can be replayed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping

from tools.replay.records import Recorded


class Source(ABC):
    """Recorded raw records of a selection, each stream's in order.

    Both methods raise `BadSource` when the recording cannot be read, `StoreError` when the bucket
    does not answer and OSError when a file cannot be read.
    """

    @property
    def left_out(self) -> Mapping[str, int]:
        """How much of it was passed over, by reason, when it was last read."""
        return {}

    @abstractmethod
    async def span(self) -> tuple[int, int] | None:
        """Receive times between which the records lie, about, microseconds; None: nothing there."""

    @abstractmethod
    def records(self) -> AsyncGenerator[Recorded]:
        """The records in the order of receiving, as far as their streams' order allows."""
