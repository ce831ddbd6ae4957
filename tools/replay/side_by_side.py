"""The records of objects that were written side by side, put into each stream's order. Pure.

Two snapshotters that overlap, as in every rolling update, share a log: each archives some records
of the same stream and time. One that is killed may leave an object whose records its successor
has archived again (services/snapshotter/README.md).
"""

from __future__ import annotations

from collections.abc import Iterable

from services.common.subjects import StreamKey
from tools.replay.records import Recorded


class SideBySide:
    """Takes objects by the time of their first records, gives records in their streams' order.

    A record that is there twice, byte for byte, is given once.
    """

    def __init__(self) -> None:
        self._held: dict[StreamKey, list[Recorded]] = {}
        self._given: dict[StreamKey, Recorded] = {}

    def add(self, records: Iterable[Recorded]) -> None:
        """Hold an object's records."""
        for recorded in records:
            self._held.setdefault(recorded.key, []).append(recorded)

    def take(self, before: int | None) -> list[Recorded]:
        """What nothing can precede any more, about in the order of receiving.

        `before`: no record that is added later was received earlier, microseconds; None: none is
        added any more.
        """
        due: list[tuple[int, Recorded]] = []
        for key, held in self._held.items():
            held.sort(key=lambda recorded: recorded.position)
            end = len(held)
            if before is not None:
                end = next((at for at, one in enumerate(held) if one.ts >= before), end)
            received = 0
            for recorded in held[:end]:
                if not self._is_given(recorded):
                    # One that was refilled keeps its place before those that waited for it.
                    received = max(received, recorded.ts)
                    due.append((received, recorded))
                    self._given[key] = recorded
            del held[:end]
        due.sort(key=lambda one: one[0])
        return [recorded for _, recorded in due]

    def _is_given(self, recorded: Recorded) -> bool:
        newest = self._given.get(recorded.key)
        return (
            newest is not None
            and newest.position == recorded.position
            and newest.payload == recorded.payload
        )
