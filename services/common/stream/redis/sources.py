"""Which Redis streams of a log may be read now. Pure: told what exists and what was read.

A subject's epochs are read in order: a newer epoch's stream is read only once the older ones gave
everything they hold. Drained streams stay in the set, for what a late writer may still add. What
is left out holds up nothing.
"""

from __future__ import annotations

from services.common.stream.redis.records import Source


class Sources:
    def __init__(self) -> None:
        self._epochs: dict[str, list[int]] = {}
        self._drained: set[Source] = set()
        self._left_out: set[Source] = set()

    def add(self, source: Source) -> bool:
        """False when it was known."""
        epochs = self._epochs.setdefault(source.subject, [])
        if source.epoch in epochs:
            return False
        epochs.append(source.epoch)
        epochs.sort()
        return True

    def readable_ones(self) -> list[Source]:
        """All but those that are left out."""
        known = (Source(subject, n) for subject, held in self._epochs.items() for n in held)
        return [source for source in known if source not in self._left_out]

    def left_out(self) -> list[Source]:
        return sorted(self._left_out)

    def leave_out(self, source: Source) -> None:
        """It cannot be read."""
        self._left_out.add(source)

    def take_back(self, source: Source) -> None:
        """It can be read (again)."""
        self._left_out.discard(source)

    def readable(self) -> tuple[list[Source], bool]:
        """The streams to read, and whether newer ones wait behind them (then do not block)."""
        found: list[Source] = []
        behind = False
        for subject, epochs in self._epochs.items():
            for number, epoch in enumerate(epochs):
                source = Source(subject, epoch)
                if source in self._left_out:
                    continue
                found.append(source)
                if source not in self._drained and number + 1 < len(epochs):
                    behind = True
                    break
        return found, behind

    def drained(self, source: Source) -> None:
        """The stream gave all it held."""
        self._drained.add(source)
