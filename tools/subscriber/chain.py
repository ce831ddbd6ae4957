"""The client's whole rule: what a subscriber of one stream may believe. Pure.

    snapshot   replaces everything held
    incr       another epoch: ask `resync`; seq not above the held one: a duplicate, ignored;
               prev equal to the held seq: applies; anything else: ask `resync`
    reset      drops the state; it is a link of the chain itself
    hb         a head ahead of what is held for longer than one heartbeat: ask `resync`

From the moment `resync` has to be asked until a snapshot or a reset comes, nothing applies.

A *break* is what should never happen: the stream went on without the record that this subscriber
still lacks, and nothing had announced it. A change of epoch is counted as a break of its own kind,
since it says why: the log was lost or the venue numbered anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """What to do with a message, and what it meant."""

    APPLIED = "applied"
    DUPLICATE = "duplicate"
    REPLACED = "replaced"
    RESET = "reset"
    # Ask `resync` now.
    BREAK = "break"
    NEW_EPOCH = "new_epoch"
    BEHIND = "behind"
    # `resync` was asked and not answered yet; ignore the message.
    WAITING = "waiting"

    @property
    def asks_resync(self) -> bool:
        return self in (Verdict.BREAK, Verdict.NEW_EPOCH, Verdict.BEHIND)


@dataclass(slots=True)
class ChainCounts:
    """What happened to one stream, or to several added up.

    Attributes:
        applied: increments that continued the chain.
        duplicates: increments ignored because they were held already.
        ignored: increments that came while a `resync` was unanswered.
        snapshots: snapshots taken over.
        skipped: snapshots that moved a held position forward, an announced jump.
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
    skipped: int = 0
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


class ChainChecker:
    """Holds a position in one stream and judges every message of it.

    Args:
        from_seq: what the subscription says is held; None and 0 hold nothing.
        epoch: the epoch of `from_seq`, where it is known.
    """

    def __init__(self, from_seq: int | None = None, epoch: int | None = None) -> None:
        self.counts = ChainCounts()
        # The last seq held and its epoch (None: not known yet).
        self.seq: int | None = from_seq or None
        self.epoch: int | None = epoch
        # Whether `seq` was only claimed by the subscription; it may lie between two records.
        self._claimed = self.seq is not None
        self.waiting = False
        self._ahead: tuple[int, float] | None = None

    def snapshot(self, epoch: int, seq: int) -> Verdict:
        """A snapshot taken at (`epoch`, `seq`) arrived."""
        self.counts.snapshots += 1
        if self.seq is not None and not self.waiting and (epoch, seq) > (self.epoch or 0, self.seq):
            self.counts.skipped += 1
        self._hold(epoch, seq)
        return Verdict.REPLACED

    def incr(self, epoch: int, seq: int, prev: int | None) -> Verdict:
        """An increment arrived; `prev` is the message's own, else the tick's."""
        if self.waiting:
            self.counts.ignored += 1
            return Verdict.WAITING
        if self.epoch is not None and epoch != self.epoch:
            self.counts.epochs += 1
            return self._broken(Verdict.NEW_EPOCH)
        if self.seq is None:
            # Nothing is held: the stream begins for this subscriber with what comes first.
            return self._apply(epoch, seq)
        if seq <= self.seq:
            self.counts.duplicates += 1
            return Verdict.DUPLICATE
        if prev == self.seq or (self._claimed and (prev is None or prev < self.seq)):
            return self._apply(epoch, seq)
        return self._broken(Verdict.BREAK)

    def reset(self, epoch: int, seq: int, prev: int | None) -> Verdict:
        """A reset arrived: the state is void, the chain goes on from here.

        A record that got lost just before it is still a break, though nothing has to be asked.
        """
        held = self.seq
        if not self.waiting and held is not None and epoch == self.epoch:
            if seq <= held:
                self.counts.duplicates += 1
                return Verdict.DUPLICATE
            if prev != held and not (self._claimed and (prev is None or prev < held)):
                self.counts.breaks += 1
        self.counts.resets += 1
        self._hold(epoch, seq)
        return Verdict.RESET

    def head(self, seq: int, now: float, heartbeat: float) -> Verdict | None:
        """A heartbeat says the stream's newest record is `seq`; None when all is well.

        Args:
            seq: the head.
            now: seconds on any clock that does not go back.
            heartbeat: seconds between two heartbeats.
        """
        if self.waiting or self.seq is None or seq <= self.seq:
            self._ahead = None
            return None
        if self._ahead is None or self.seq >= self._ahead[0]:
            # What an earlier heartbeat announced has come meanwhile; this head starts anew.
            self._ahead = (seq, now)
            return None
        if now - self._ahead[1] <= heartbeat:
            return None
        self.counts.behind += 1
        return self._broken(Verdict.BEHIND)

    def reconnected(self) -> None:
        """The connection is new: what was asked on the old one has no answer any more.

        The position held stays valid: subscribing from it heals the break exactly.
        """
        self.waiting = False
        self._ahead = None

    def forget(self) -> None:
        """Hold nothing: the server cannot go on from this position."""
        self.seq = self.epoch = None
        self.waiting = self._claimed = False
        self._ahead = None

    def _apply(self, epoch: int, seq: int) -> Verdict:
        self.counts.applied += 1
        self._hold(epoch, seq)
        return Verdict.APPLIED

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
