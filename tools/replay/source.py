"""What can be replayed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator

from tools.replay.records import Recorded


class Source(ABC):
    """Recorded raw records of a selection, each stream's in order.

    Both methods raise `BadSource` when the recording cannot be read, `StoreError` when the bucket
    does not answer and OSError when a file cannot be read.
    """

    @abstractmethod
    async def span(self) -> tuple[int, int] | None:
        """Receive times between which the records lie, about, microseconds; None: nothing there."""

    @abstractmethod
    def records(self) -> AsyncGenerator[Recorded]:
        """The records in the order of receiving, as far as their streams' order allows."""
