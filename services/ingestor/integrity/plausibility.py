"""Numbers that no feed can have reached by itself: they need other messages to be believed. Pure.

One broken number far ahead would make a hole of its size, and everything real after it would seem
to be old. So a number more than `limit` above all that is known (and `per_s` for each second since
it was) is a *claim*. Whatever follows a real jump names a number near to it: a claim is believed
once `marks` heartbeats in a row and one more message have. Heartbeats are the venue's own word, a
second apart, so that messages broken alike, a moment long or of one kind, confirm nothing. A new
number near to what is known refutes every claim: the numbering is still there. Going back is judged
elsewhere (`RESTARTED` of the sequencer).

Two broken heartbeats and a third broken message, with nothing real between them, are believed. They
agree already: each is within `limit` of the others, which chance does not bring about, so a sender
has moved all by the same step. What it says is then, word for word, what a venue says that began to
number anew at that step; each further witness that is asked for delays the true one by a second,
and the sender has it too. What tells them apart comes later: the real numbers go on. Then the hole
is given up as `renumbered` and what it swallowed is asked for (`OpenTrades.renumbered`).
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

# Claims that are remembered; of more than that the oldest is forgotten.
_CLAIMS = 16
# Claims that so many marks in a row left aside are broken numbers.
_DOUBTS = 2
# So many messages in a row far below what is known: the numbering began anew.
_BEHIND = 3


@dataclass(slots=True, eq=False)
class _Claim:
    """Numbers from `low` to `high`, each near to another, and who named them."""

    low: int
    high: int
    witnesses: set[Hashable] = field(default_factory=set)
    # Of the witnesses, heartbeats in a row.
    marks: int = 0
    doubts: int = 0


@dataclass(slots=True, eq=False)
class JumpGuard:
    """Judges the numbers of one numbering, from whatever messages name them."""

    _limit: int  # how far ahead of all that is known a single message is believed
    known: int | None = None  # the highest number believed so far; None believes the first one
    per_s: int = 0  # how much farther for each second in which nothing was heard
    # When a number was last believed, µs; 0 counts from the first message.
    at: int = 0
    # How many heartbeats in a row have to name a number far ahead. Any message beside them is the
    # last witness; with 0 it takes two messages of any kind.
    marks: int = 2
    _claims: list[_Claim] = field(default_factory=list)
    _behind: int = 0

    def believes(
        self, number: int, witness: Hashable, ts: int = 0, *, is_mark: bool = False
    ) -> bool:
        """Judge a number that came at `ts` (µs); `is_mark`: in a heartbeat.

        `witness` tells whether two messages are one that came twice.
        """
        known = self.known
        if known is not None and known <= number <= known + self._limit:
            # Nearly always. The same number again may only be a late copy, and refutes nothing.
            if self._claims and number > known:
                self._claims = []
            self.known = number
            self._behind = 0
            self.at = ts
            return True
        if self._judge(number, witness, ts, is_mark=is_mark):
            self.at = ts
            return True
        return False

    def _judge(self, number: int, witness: Hashable, ts: int, *, is_mark: bool) -> bool:
        known = self.known
        if known is None:
            self.known = number
            return True
        self.at = self.at or ts
        if number <= known + self._limit + max(0, ts - self.at) * self.per_s // 1_000_000:
            self._near_or_behind(number, known)
            return True
        limit = self._limit
        near = [each for each in self._claims if each.low - limit <= number <= each.high + limit]
        if not near:
            near = [_Claim(number, number)]
            self._claims = [*self._claims[1 - _CLAIMS :], *near]
        for claim in near:
            claim.low, claim.high = min(claim.low, number), max(claim.high, number)
            if witness not in claim.witnesses and (is_mark or not self._has_witnesses(claim)):
                claim.witnesses.add(witness)
                claim.marks += is_mark
        if not any(claim.marks >= self.marks and self._has_witnesses(claim) for claim in near):
            return False
        self.known = max(claim.high for claim in near)
        self._claims = [claim for claim in self._claims if claim not in near]
        return True

    def _has_witnesses(self, claim: _Claim) -> bool:
        return len(claim.witnesses) > max(1, self.marks)

    def reaches(self, number: int) -> bool:
        """Whether this number is believed as it is."""
        return self.known is not None and number <= self.known + self._limit

    def claims(self, number: int) -> bool:
        """Whether this number is still waiting for witnesses."""
        return any(claim.low <= number <= claim.high for claim in self._claims)

    def doubt(self) -> None:
        """The venue named a number near to what is known: a jump would have shown by now."""
        for claim in self._claims:
            claim.doubts += 1
            claim.marks = 0
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
