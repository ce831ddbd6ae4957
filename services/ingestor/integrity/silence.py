"""Has a level 2 channel fallen silent while its product's market goes on? By heartbeats. Pure.

Level 2 carries no number, but heartbeats name the product's sequence, and nearly all that moves it
touches a level: in recordings an update came for every two steps. What moves it alone is an order
that never rested (two steps), and an update comes after the heartbeat that counted it. So steps
count once a heartbeat named them a while ago, and a few prove nothing.

A product where orders that never rest come and nothing else would be suspected for ever: each
suspicion that no update followed doubles the steps the next one takes.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

# So often the steps are doubled at most: 64 times as many.
_DOUBLINGS = 6


class SilenceRule(NamedTuple):
    """When silence is suspect."""

    steps: int = 20  # of the sequence without an update; 0 never suspects
    grace_us: int = 1_500_000  # how long before now a heartbeat must have named them, µs


class Silence:
    """One book's silence: `update` and `base` what comes of it, `heartbeat` what asks."""

    def __init__(self, rule: SilenceRule) -> None:
        self._rule = rule
        self._doublings = 0
        # The sequence at the first heartbeat behind the newest update or base.
        self._from: int | None = None
        # Heartbeats since that are younger than the grace: when, and the sequence they named.
        self._recent: deque[tuple[int, int]] = deque()
        # The highest sequence named by those that are older.
        self._named = 0

    def update(self) -> None:
        """An update came: the channel lives."""
        self._doublings = 0
        self._from = None

    def base(self) -> None:
        """A snapshot came, or is due: steps before it say nothing of what comes after."""
        self._from = None

    def heartbeat(self, sequence: int, ts: int) -> int | None:
        """The steps without an update, when they are suspect; `ts` in µs, never going back."""
        if not self._rule.steps:
            return None
        if self._from is None or sequence < self._from:
            self._from = self._named = sequence
            self._recent.clear()
        self._recent.append((ts, sequence))
        while self._recent and ts - self._recent[0][0] >= self._rule.grace_us:
            self._named = max(self._named, self._recent.popleft()[1])
        moved = self._named - self._from
        if moved < self._rule.steps << self._doublings:
            return None
        self._doublings = min(self._doublings + 1, _DOUBLINGS)
        self._from = None
        return moved
