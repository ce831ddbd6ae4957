"""The client's whole rule: what may be believed of one stream. Pure.

snapshot   replaces everything held
incr       another epoch: ask `resync`; seq not above the held one: a duplicate, ignored; prev equal
           to the held seq: applies; anything else: ask `resync`
reset      drops the state; it is a link of the chain itself
hb         a head above what is held for longer than one heartbeat: ask `resync`

From asking `resync` until its snapshot (or a reset) comes, nothing applies.
"""

from __future__ import annotations

from dataclasses import dataclass
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


@dataclass(slots=True)
class ChainCounts:
    """What happened to one stream, or to several added up.

    Attributes:
        applied: increments that continued the chain.
        duplicates: messages ignored because what they bring was held already.
        ignored: increments that came while a `resync` was unanswered.
        snapshots: snapshots taken over.
        resets: announced restarts.
        breaks: the chain did not go on from what was held, unannounced; includes `epochs` and
            `behind`.
        epochs: breaks that were a change of epoch.
        behind: breaks found by a heartbeat's head only.
    """

    applied: int = 0
    duplicates: int = 0
    ignored: int = 0
    snapshots: int = 0
    resets: int = 0
    breaks: int = 0
    epochs: int = 0
    behind: int = 0

    @property
    def unexplained(self) -> int:
        """Breaks that nothing explains: not even that the log was lost or numbered anew."""
        return self.breaks - self.epochs

    def add(self, other: ChainCounts) -> None:
        for name in self.__dataclass_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class Chain:
    """A position in one stream; `counts` says what became of its messages.

    Args:
        seq: what the user says to hold already; 0 and None hold nothing.
        epoch: the epoch of `seq`, where it is known.
    """

    def __init__(self, seq: int | None = None, epoch: int | None = None) -> None:
        self.seq = seq or None
        self.epoch = epoch
        self.counts = ChainCounts()
        self.waiting = False
        # `seq` is only what the user claims; it may lie between two records.
        self._claimed = self.seq is not None
        # A head that was ahead, and when it was first seen.
        self._ahead: tuple[int, float] | None = None

    def snapshot(self, epoch: int, seq: int) -> None:
        self.counts.snapshots += 1
        self._hold(epoch, seq)

    def incr(self, epoch: int, seq: int, prev: int | None) -> Verdict:
        """Judge an increment; `prev` is the message's own where it has one, else the tick's."""
        counts = self.counts
        if self.waiting:
            counts.ignored += 1
            return Verdict.IGNORE
        if self.epoch is not None and epoch != self.epoch:
            counts.epochs += 1
            return self._broken(Verdict.EPOCH)
        if self.seq is not None:
            if seq <= self.seq:
                counts.duplicates += 1
                return Verdict.IGNORE
            if prev != self.seq and not self._claim_holds(prev):
                return self._broken(Verdict.BREAK)
        counts.applied += 1
        self._hold(epoch, seq)
        return Verdict.APPLY

    def reset(self, epoch: int, seq: int, prev: int | None) -> Verdict:
        """Judge a reset; one that is held already is a duplicate.

        A record that got lost just before it is a break that is counted; nothing has to be asked.
        """
        if not self.waiting and self.seq is not None and self.epoch in (None, epoch):
            if seq <= self.seq:
                self.counts.duplicates += 1
                return Verdict.IGNORE
            if prev != self.seq and not self._claim_holds(prev):
                self.counts.breaks += 1
        self.counts.resets += 1
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
        self.counts.behind += 1
        return self._broken(Verdict.BEHIND)

    def reconnected(self) -> None:
        """What was asked on the old connection has no answer any more; the position stays good."""
        self.waiting = False
        self._ahead = None

    def _claim_holds(self, prev: int | None) -> bool:
        return self._claimed and (prev is None or self.seq is None or prev < self.seq)

    def _hold(self, epoch: int, seq: int) -> None:
        self.epoch, self.seq = epoch, seq
        self.waiting = self._claimed = False
        if self._ahead is not None and seq >= self._ahead[0]:
            self._ahead = None

    def _broken(self, verdict: Verdict) -> Verdict:
        self.counts.breaks += 1
        self.waiting = True
        self._ahead = None
        return verdict
