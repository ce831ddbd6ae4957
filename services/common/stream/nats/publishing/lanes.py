"""In which order a publisher's records of one log may go out, so that none is stored out of turn.

A connection that breaks is not the only way to lose a record: a stream's leader may die while the
connection to another server stands, and the server may refuse one record and take the next. What
was sent after the lost record must then not be stored, or it would stand before it for ever. So a
lane of which the server refused anything gives out nothing more, whoever asks: what is stored has
to be looked up first, and the next session has lanes of its own. Pure.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import NamedTuple

# How long a log counts as shared after somebody else was seen to write to it, and at most.
_SHARED_S = 30.0
_MAX_SHARED_S = 3600.0
# Of one subject's records that go out together, each naming the one before it.
_LONGEST_RUN = 256


class Lane[T]:
    """One log's records within one connection, each published by itself.

    A subject's next records go out when those before them are stored: one, or (`runs`) as many as
    wait, of which each names the one directly before it (`Nats-Expected-Last-Msg-Id`). The server
    takes such a record only while the one it names is the log's newest, so it is never stored
    without it, whoever else writes; only, then it is refused, and runs are no use.

    Why no run goes over several subjects: the server looks for a record's own id first. Of one
    that another writer stored it says so, and would store the record that names that one, although
    what came before both was refused. Why there are none on a log with replicas: nats-server (seen
    in 2.15.1) checks the name only when it applies what was agreed on, so after a change of leader
    a record may not follow, and every replica stops the stream for good ("critical write error:
    last msgid mismatch").
    """

    def __init__(self, *, runs: bool) -> None:
        self.refused = False
        self._longest = _LONGEST_RUN if runs else 1
        # What was not given out yet, with id and size, by subject.
        self._waiting: dict[str, list[tuple[str, T, int]]] = {}
        # The subjects whose next run may go out.
        self._due: deque[str] = deque()
        # How many of a subject's records are on their way; 0 while it is due.
        self._out: dict[str, int] = {}

    @property
    def idle(self) -> bool:
        """Whether it has nothing to send and nothing on its way."""
        return not self.refused and not self._out

    def enqueue(self, subject: str, identity: str, item: T, size: int) -> None:
        """Take the next record of the log."""
        waiting = self._waiting.get(subject)
        if waiting is not None:
            waiting.append((identity, item, size))
            return
        self._waiting[subject] = [(identity, item, size)]
        if subject not in self._out:
            self._out[subject] = 0
            self._due.append(subject)

    def next(self, max_bytes: int) -> list[tuple[T, str]]:
        """Runs that may go out now, of `max_bytes` or one record more: their records, in order.

        With each the id of the one that must be the log's newest; "" where any may be.
        """
        given: list[tuple[T, str]] = []
        if self.refused:
            return given
        due, waiting, longest = self._due, self._waiting, self._longest
        while due and max_bytes > 0:
            subject = due.popleft()
            ready = waiting.pop(subject)
            before, follows = len(given), ""
            for identity, item, size in islice(ready, longest):
                if max_bytes <= 0:
                    break
                given.append((item, follows))
                follows = identity
                max_bytes -= size
            count = self._out[subject] = len(given) - before
            if count < len(ready):
                waiting[subject] = ready[count:]
        return given

    def stored(self, subject: str) -> None:
        """The server has acknowledged a record of this subject that `next` had given out."""
        left = self._out.get(subject, 0) - 1
        if left < 0:
            return
        if left or subject in self._waiting:
            self._out[subject] = left
            if not left:
                self._due.append(subject)
        else:
            del self._out[subject]

    def refuse(self) -> None:
        """The server has refused a record: nothing more is given out."""
        self.refused = True


class BatchLane[T]:
    """One log's records within one connection, in batches of which all is stored or nothing.

    The next batch goes out when the one before it is stored, so whatever a change of leader costs
    is the newest batch as a whole. For logs with replicas (nats-server 2.12 and later): on others a
    batch costs the server four times as much as its records, and a record 3 ms, at 2,000 to 10,000
    a second. The server refuses a batch of which it has a record already; so this is for a log's
    only writer.
    """

    def __init__(self) -> None:
        self.refused = False
        self._ready: deque[tuple[T, int]] = deque()
        self._sent: list[T] = []

    @property
    def idle(self) -> bool:
        """Whether it has nothing to send and nothing on its way."""
        return not self.refused and not self._ready and not self._sent

    def enqueue(self, _subject: str, _identity: str, item: T, size: int) -> None:
        """Take the next record of the log."""
        self._ready.append((item, size))

    def next(self, max_records: int, max_bytes: int) -> list[T]:
        """The batch that may go out now: at least one record where there is any; else empty."""
        if self.refused or self._sent:
            return []
        total = 0
        while self._ready and len(self._sent) < max_records:
            item, size = self._ready[0]
            total += size
            if self._sent and total > max_bytes:
                break
            self._ready.popleft()
            self._sent.append(item)
        return list(self._sent)

    def stored(self, last: T) -> list[T]:
        """The server has stored the batch that ends with `last`; its records.

        Empty when that batch is not the one on its way: a late or a second answer says nothing of
        the batch that is.
        """
        if not self._sent or self._sent[-1] != last:
            return []
        sent, self._sent = self._sent, []
        return sent

    def refuse(self, last: T) -> list[T]:
        """The server has refused the batch that ends with `last`; its records, as in `stored`.

        Nothing more is given out.
        """
        self.refused = True
        return list(self._sent) if self._sent and self._sent[-1] == last else []


class _Contention(NamedTuple):
    until: float
    period_s: float


class Contended:
    """The logs that somebody else was seen to write to. `now` is any clock's seconds."""

    def __init__(self) -> None:
        self._held: dict[str, _Contention] = {}

    def __contains__(self, at: tuple[str, float]) -> bool:
        name, now = at
        held = self._held.get(name)
        return held is not None and now < held.until

    def seen(self, name: str, now: float) -> float:
        """It was seen (again); answers for how many seconds the log counts as shared.

        Soon after the last time it is twice as long as then.
        """
        held = self._held.get(name)
        if held is None or now > held.until + held.period_s:
            period_s = _SHARED_S
        else:
            period_s = min(2 * held.period_s, _MAX_SHARED_S)
        self._held[name] = _Contention(now + period_s, period_s)
        return period_s
