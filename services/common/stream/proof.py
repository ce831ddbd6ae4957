"""Of which streams it is known that what a publisher sends next stands on what it follows.

A stream is what a backend keeps a subject's records in.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

from services.common.errors import LogWentBack
from services.common.stream.holes import Predecessor, first_on_a_hole
from services.common.stream.records import InFlight, Position, Record


class Proof[K, T: InFlight]:
    """Asks where a stream ends before the first record is sent to it since an outage."""

    def __init__(
        self,
        predecessor: Predecessor | None,
        stream_of: Callable[[T], K],
        # The newest position of each of these streams, None where one is empty; without those
        # where nothing can be stored either. Raises BrokerUnavailable.
        newest_of: Callable[[Sequence[K]], Awaitable[Mapping[K, Position | None]]],
    ) -> None:
        self._predecessor = predecessor
        self._stream_of = stream_of
        self._newest_of = newest_of
        # None before the first outage: what is published was computed from what the log holds.
        self._proven: set[K] | None = None

    def doubt(self) -> None:
        """The log may have less than before."""
        self._proven = set()

    async def check(self, items: Collection[T]) -> None:
        """Return when all of these, in this order, may be sent; there may be more in the end.

        Raises:
            LogWentBack: one would stand above a hole.
            BrokerUnavailable: the server does not answer.
        """
        while self._unproven(items):
            _, hole = await self.sort_out(items)
            if hole is not None:
                raise hole

    def _unproven(self, items: Collection[T]) -> dict[K, list[Record]]:
        found: dict[K, list[Record]] = {}
        if self._predecessor is not None and self._proven is not None:
            for item in items:
                if (stream := self._stream_of(item)) not in self._proven:
                    found.setdefault(stream, []).append(item.record)
        return found

    async def sort_out(self, items: Collection[T]) -> tuple[list[T], LogWentBack | None]:
        """Those of these that may be sent now, in their order; and why others may not.

        Raises:
            BrokerUnavailable: the server does not answer.
        """
        standing = list(items)
        records = self._unproven(standing)
        if not records:
            return standing, None
        assert self._predecessor is not None
        assert self._proven is not None
        newest = await self._newest_of(list(records))
        holes: dict[K, LogWentBack] = {}
        for stream, asked in records.items():
            found = None
            if stream in newest:
                found = first_on_a_hole(newest[stream], asked, self._predecessor)
            if found is None:
                self._proven.add(stream)
            else:
                holes[stream] = LogWentBack(found.subject, found.position, newest[stream])
        if holes:
            standing = [
                item
                for item in standing
                if (hole := holes.get(self._stream_of(item))) is None
                or item.record.position < hole.position
            ]
        return standing, next(iter(holes.values()), None)
