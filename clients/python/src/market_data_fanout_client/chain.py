"""The client's whole rule: what may be believed of one stream. Pure.

snapshot   replaces everything held
incr       another epoch: ask `resync`; seq not above the held one: a duplicate, ignored; prev equal
           to the held seq: applies; anything else: ask `resync`
reset      drops the state; it is a link of the chain itself
hb         a head above what is held for longer than one heartbeat: ask `resync`

From asking `resync` until its snapshot (or a reset) comes, nothing applies.
"""

from __future__ import annotations

from enum import Enum


class Verdict(Enum):
    """What to do with a message."""

    APPLY = "apply"
    IGNORE = "ignore"
    # Ask `resync`, because of this.
    BREAK = "break"
    EPOCH = "epoch"
    BEHIND = "behind"

    @property
    def asks_resync(self) -> bool:
        return self in (Verdict.BREAK, Verdict.EPOCH, Verdict.BEHIND)


class Chain:
    """A position in one stream.

    Args:
        seq: what the user says to hold already; 0 and None hold nothing.
        epoch: the epoch of `seq`, where it is known.
    """

    def __init__(self, seq: int | None = None, epoch: int | None = None) -> None:
        self.seq = seq or None
        self.epoch = epoch
        self.waiting = False
        # `seq` is only what the user claims; it may lie between two records.
        self._claimed = self.seq is not None
        # A head that was ahead, and when it was first seen.
        self._ahead: tuple[int, float] | None = None

    def snapshot(self, epoch: int, seq: int) -> None:
        self._hold(epoch, seq)

    def incr(self, epoch: int, seq: int, prev: int | None) -> Verdict:
        """Judge an increment; `prev` is the message's own where it has one, else the tick's."""
        if self.waiting:
            return Verdict.IGNORE
        if self.epoch is not None and epoch != self.epoch:
            return self._broken(Verdict.EPOCH)
        if self.seq is not None:
            if seq <= self.seq:
                return Verdict.IGNORE
            if prev != self.seq and not (self._claimed and (prev is None or prev < self.seq)):
                return self._broken(Verdict.BREAK)
        self._hold(epoch, seq)
        return Verdict.APPLY

    def reset(self, epoch: int, seq: int) -> Verdict:
        """Judge a reset; one that is held already is a duplicate."""
        same = self.epoch is None or epoch == self.epoch
        if not self.waiting and self.seq is not None and same and seq <= self.seq:
            return Verdict.IGNORE
        self._hold(epoch, seq)
        return Verdict.APPLY

    def head(self, seq: int, now: float, heartbeat_s: float) -> Verdict:
        """Judge a heartbeat's head; `now` is seconds on a clock that does not go back."""
        if self.waiting or self.seq is None or seq <= self.seq:
            self._ahead = None
            return Verdict.APPLY
        if self._ahead is None or self.seq >= self._ahead[0]:
            self._ahead = (seq, now)
            return Verdict.APPLY
        if now - self._ahead[1] < heartbeat_s:
            return Verdict.APPLY
        return self._broken(Verdict.BEHIND)

    def reconnected(self) -> None:
        """What was asked on the old connection has no answer any more; the position stays good."""
        self.waiting = False
        self._ahead = None

    def _hold(self, epoch: int, seq: int) -> None:
        self.epoch, self.seq = epoch, seq
        self.waiting = self._claimed = False
        if self._ahead is not None and seq >= self._ahead[0]:
            self._ahead = None

    def _broken(self, verdict: Verdict) -> Verdict:
        self.waiting = True
        self._ahead = None
        return verdict
