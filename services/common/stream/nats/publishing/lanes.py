"""In which order a publisher's records of one log may go out, so that none is stored out of turn.

A connection that breaks is not the only way to lose a record: a stream's leader may die while the
connection to another server stands, and the server may refuse one record and take the next. What
was sent after the lost record must then not be stored, or it would stand before it for ever. So a
lane of which the server refused anything gives out nothing more, whoever asks: what is stored has
to be looked up first, and the next session has lanes of its own. Pure.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

# How long a log counts as shared after somebody else was seen to write to it, and at most.
_SHARED_S = 30.0
_MAX_SHARED_S = 3600.0


class Lane[T]:
    """One log's records within one connection, each published by itself.

    Alone: each record names the one sent before it (`Nats-Expected-Last-Msg-Id`), and the server
    refuses what does not follow; any number is on its way. The first names none, so nothing follows
    it before it is stored.

    Shared: a subject's next record goes out when the one before it is stored. For a log that others
    write to, where nobody knows what comes before. For a log with replicas that cannot take batches
    (see `BatchLane`) too: nats-server (seen in 2.15.1) checks the name only when it applies what
    was agreed on, so after a change of leader a record may not follow, and every replica stops the
    stream for good ("critical write error: last msgid mismatch").
    """

    def __init__(self, *, shared: bool) -> None:
        self.shared = shared
        # The id of the newest record that the server has acknowledged here.
        self.newest = ""
        self.refused = False
        self._ready: deque[tuple[str, T]] = deque()
        self._sent_last = ""
        self._opening = ""
        self._behind: dict[str, deque[tuple[str, T]]] = {}

    @property
    def idle(self) -> bool:
        """Whether a shared lane has nothing to send and nothing on its way."""
        return not self.refused and not self._ready and not self._behind

    def enqueue(self, subject: str, identity: str, item: T, _size: int) -> None:
        """Take the next record of the log."""
        if self.shared:
            behind = self._behind.get(subject)
            if behind is not None:
                behind.append((identity, item))
                return
            self._behind[subject] = deque()
        self._ready.append((identity, item))

    def next(self) -> tuple[T, str] | None:
        """A record that may go out now, and the id of the one that must be the log's newest.

        The id is "" where any may be.
        """
        if self.refused or not self._ready or self._opening:
            return None
        identity, item = self._ready.popleft()
        if self.shared:
            return item, ""
        follows, self._sent_last = self._sent_last, identity
        if not follows:
            self._opening = identity
        return item, follows

    def stored(self, subject: str, identity: str) -> None:
        """The server has acknowledged this record, which `next` had given out."""
        self.newest = identity
        if identity == self._opening:
            self._opening = ""
        if not self.shared:
            return
        behind = self._behind.get(subject)
        if behind is not None:
            if behind:
                self._ready.append(behind.popleft())
            else:
                del self._behind[subject]

    def refuse(self) -> None:
        """The server has refused a record: nothing more is given out."""
        self.refused = True


class BatchLane[T]:
    """One log's records within one connection, in batches of which all is stored or nothing.

    The next batch goes out when the one before it is stored, so whatever a change of leader costs
    is the newest batch as a whole. For logs with replicas (nats-server 2.12 and later). The server
    refuses a batch of which it has a record already; so this is for a log's only writer.
    """

    shared = False

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
