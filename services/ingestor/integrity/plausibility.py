"""Numbers that no feed can have reached by itself: they need a second message to be believed. Pure.

One broken number far ahead would make a hole of its size, and everything real after it would seem
to be old. So a number more than `limit` above all that is known (and `per_s` for each second since
it was) is a *claim*; it is believed once another message says a number near to it, as whatever
follows a real jump (an outage, a market that was away) does at once. A new number near to what is
known refutes every claim: the numbering is still there, so that two broken numbers confirm each
other only where nothing real comes between them. Going back is judged elsewhere (`Restarted` of the
sequencer).
"""

from __future__ import annotations

from collections.abc import Hashable

# Claims that are remembered; of more than that the oldest is forgotten.
_CLAIMS = 16
# Claims that so many marks in a row left aside are broken numbers.
_DOUBTS = 2
# So many messages in a row far below what is known: the numbering began anew.
_BEHIND = 3


class _Claim:
    __slots__ = ("doubts", "number", "witness")

    def __init__(self, number: int, witness: Hashable) -> None:
        self.number = number
        self.witness = witness
        self.doubts = 0


class JumpGuard:
    """Judges the numbers of one numbering, from whatever messages name them.

    Args:
        limit: how far ahead of all that is known a single message is believed.
        known: the highest number believed so far; None believes the first one.
        per_s: how much farther for each second in which nothing was heard.
    """

    __slots__ = ("_at", "_behind", "_claims", "_limit", "_per_s", "known")

    def __init__(self, limit: int, known: int | None = None, per_s: int = 0) -> None:
        self._limit = limit
        self._per_s = per_s
        self.known = known
        # When a number was last believed, µs; 0 before the first.
        self._at = 0
        self._claims: list[_Claim] = []
        self._behind = 0

    def believes(self, number: int, witness: Hashable, ts: int = 0) -> bool:
        """Judge a number that came at `ts` (µs).

        `witness` tells whether two messages are one that came twice.
        """
        known = self.known
        if known is not None and known <= number <= known + self._limit:
            # Nearly always. The same number again may only be a late copy, and refutes nothing.
            if self._claims and number > known:
                self._claims = []
            self.known = number
            self._behind = 0
            self._at = ts
            return True
        if self._judge(number, witness, ts):
            self._at = ts
            return True
        return False

    def _judge(self, number: int, witness: Hashable, ts: int) -> bool:
        known = self.known
        if known is None:
            self.known = number
            return True
        self._at = self._at or ts
        if number <= known + self._limit + max(0, ts - self._at) * self._per_s // 1_000_000:
            self._near_or_behind(number, known)
            return True
        near = [claim for claim in self._claims if abs(claim.number - number) <= self._limit]
        if any(claim.witness != witness for claim in near):
            self.known = max(number, *(claim.number for claim in near))
            self._claims = [claim for claim in self._claims if claim not in near]
            return True
        if not near:
            self._claims = [*self._claims[1 - _CLAIMS :], _Claim(number, witness)]
        return False

    def reaches(self, number: int) -> bool:
        """Whether this number is believed as it is."""
        return self.known is not None and number <= self.known + self._limit

    def claims(self, number: int) -> bool:
        """Whether this number is still waiting for a witness."""
        return any(claim.number == number for claim in self._claims)

    def doubt(self) -> None:
        """The venue named a number near to what is known: a jump would have shown by now."""
        for claim in self._claims:
            claim.doubts += 1
        self._claims = [claim for claim in self._claims if claim.doubts < _DOUBTS]

    def _near_or_behind(self, number: int, known: int) -> None:
        if number >= known - self._limit:
            self._behind = 0
            self.known = max(known, number)
            return
        self._behind += 1
        if self._behind >= _BEHIND:
            self._behind = 0
            self.known = number
