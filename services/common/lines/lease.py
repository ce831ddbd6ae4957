"""Which line works, and when another one takes over. Pure.

The line that works proves it by beats, records of one subject of a log, at positions that
count terms and, within a term, beats. The log is the only judge: it keeps one record at a position,
so of two lines that claim a term at once one is stored, and both read which. No line needs another
one's clock: what counts is that the newest beat did not change for `takeover_s` of one's own time,
while the log could be read.

A line that was held up (a stopped process, a network cut in two) may write for a moment beside the
one that took over. Nothing rests on that not happening: what stands in the log already is refused
by its position, and what would not follow is refused or shows in the stream's chain. So a lease
saves double work and keeps books in one piece; that nothing is lost silently is the chain's doing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

# Beats of one term, at most: more than five years of them.
TERM = 10**9
# The number of a term's last beat, with which its line lets go.
RELEASED = TERM - 1
# After the log did not answer: whoever writes may need so long to find its way back to it, and has
# to write again first what a log lost at its end.
_AFTER_OUTAGE_S = 5.0
# Beats in the time after which another line takes over: one that is late takes nothing away.
_BEATS_IN_TIME = 4


class Beat(NamedTuple):
    """A line's word that it works."""

    term: int  # 1 for the first line that ever wrote
    number: int  # within the term
    line: str
    since: int  # when that line's process began, µs: a name may come back

    @property
    def seq(self) -> int:
        """Its place in the log."""
        return self.term * TERM + self.number

    @classmethod
    def at(cls, seq: int, line: str, since: int) -> Beat:
        return cls(*divmod(seq, TERM), line, since)


class Role(Enum):
    STANDBY = "standby"
    CLAIMING = "claiming"  # has written a beat of a new term, and not read yet whose was stored
    ACTIVE = "active"


@dataclass(slots=True, eq=False)
class Lease:
    """One line's view of it. Times are seconds of a clock that never goes back.

    `heard` or `missed` is to be called several times in `takeover_s`, and `due` after each. A
    process may be held up anywhere, also between a question and its answer: an answer says what was
    so when it was asked, and no later.
    """

    _line: str
    _since: int
    _takeover_s: float
    role: Role = Role.STANDBY
    # The newest beat that was ever read, or written by this line.
    newest: Beat | None = None
    # When the newest question was asked of which it is known how it ended.
    _asked: float = field(default=float("-inf"), init=False)
    # Since when the newest beat has not changed while each question was answered.
    _still: float | None = field(default=None, init=False)
    # It let go, and takes nothing back.
    _left: bool = field(default=False, init=False)
    # Whether the log did not answer since the newest beat was read.
    _outage: bool = field(default=False, init=False)
    # When this line wrote its last beat.
    _beaten: float = field(default=float("-inf"), init=False)

    def heard(self, found: Beat | None, asked: float, now: float) -> None:
        """The log answered what was asked at `asked`: its newest beat, None without any.

        A beat below the newest one that is known is of a line that was held up, or the log lost its
        end: it says nothing.
        """
        self._asked = asked
        newest = self.newest
        if found is None or found == newest or (newest is not None and found.seq < newest.seq):
            if self._still is None:
                self._still = now
        else:
            self._still = now
            self._outage = False
            self.newest = found
            own = (found.line, found.since) == (self._line, self._since)
            self.role = Role.ACTIVE if own and found.number != RELEASED else Role.STANDBY
        if self.role is Role.CLAIMING and asked - self._beaten >= self._takeover_s:
            # It was not stored, or is not shown yet: then it may still decide.
            self.role = Role.STANDBY

    def missed(self, asked: float) -> None:
        """The log did not answer what was asked at `asked`.

        What it holds meanwhile is unknown, so no silence is judged. A line that works goes on, as
        no other can take over by such a log; unless it was itself held up since it last asked.
        """
        if asked - self._asked < self._takeover_s:
            self._asked = asked
        self._still = None
        self._outage = True

    def due(self, now: float) -> Beat | None:
        """The beat to be written now, if any: the next one of this line's term, or a claim."""
        newest = self.newest
        if self.role is Role.ACTIVE and newest is not None:
            if now - self._beaten < self._takeover_s / _BEATS_IN_TIME:
                return None
            # One that is not stored is followed by the next one.
            self.newest = beat = newest._replace(number=newest.number + 1)
        elif self.role is Role.STANDBY and self._free():
            self.role = Role.CLAIMING
            term = 1 if newest is None else newest.term + 1
            beat = Beat(term, 0, self._line, self._since)
        else:
            return None
        self._beaten = now
        return beat

    def _free(self) -> bool:
        """Whether no line writes, as far as can be told."""
        if self._still is None or self._left:
            return False
        newest = self.newest
        if newest is None or newest.number == RELEASED:
            return True
        patience = max(self._takeover_s, _AFTER_OUTAGE_S if self._outage else 0.0)
        return self._asked - self._still >= patience

    @property
    def stands_by(self) -> bool:
        """Whether another line is known to work, or did when the log was last read."""
        newest = self.newest
        if self.role is not Role.STANDBY or newest is None or newest.number == RELEASED:
            return False
        return (newest.line, newest.since) != (self._line, self._since)

    def may_write(self, now: float) -> bool:
        """Whether this line may write streams' records.

        Not after a pause in which another one may have taken over, until the log was asked again.
        """
        return self.role is Role.ACTIVE and now - self._asked < self._takeover_s

    def release(self) -> Beat | None:
        """The last beat of this line, which lets another one take over at once; None: not active.

        What this line wrote has to be durable before.
        """
        if self.role is not Role.ACTIVE or self.newest is None:
            return None
        self._left = True
        self.role = Role.STANDBY
        self.newest = self.newest._replace(number=RELEASED)
        return self.newest
