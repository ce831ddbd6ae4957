"""In which order a publisher's records of one log may go out, so that none is stored out of turn.

A connection that breaks is not the only way to lose a record: a stream's leader may die while the
connection to another server stands, and the server may refuse one record and take the next. What
was sent after the lost record must then not be stored, or it would stand before it for ever. Pure.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple


class Next[T](NamedTuple):
    """`follows` is the id of the record that must be the log's newest, "" for any."""

    item: T
    follows: str


class Lane[T]:
    """One log's records within one connection.

    Alone: each record names the one sent before it (`Nats-Expected-Last-Msg-Id`), and the server
    refuses what does not follow; any number is on its way. The first names none, so nothing follows
    it before it is stored.

    Shared: a subject's next record goes out when the one before it is stored. For a log that others
    write other records to, where nobody knows what comes before; and for one with replicas, where
    nats-server (seen in 2.15.1) checks the name only when it applies what was agreed on: after a
    change of leader a record may then not follow, and every replica stops the stream for good
    ("critical write error: last msgid mismatch").
    """

    def __init__(self, *, shared: bool) -> None:
        self.shared = shared
        # The id of the newest record that the server has acknowledged here.
        self.newest = ""
        self._ready: deque[tuple[str, T]] = deque()
        self._sent_last = ""
        self._opening = ""
        self._behind: dict[str, deque[tuple[str, T]]] = {}

    @property
    def idle(self) -> bool:
        """Whether a shared lane has nothing to send and nothing on its way."""
        return not self._ready and not self._behind

    def put(self, subject: str, identity: str, item: T) -> None:
        """Take the next record of the log."""
        if self.shared:
            behind = self._behind.get(subject)
            if behind is not None:
                behind.append((identity, item))
                return
            self._behind[subject] = deque()
        self._ready.append((identity, item))

    def next(self) -> Next[T] | None:
        """A record that may go out now."""
        if not self._ready or self._opening:
            return None
        identity, item = self._ready.popleft()
        if self.shared:
            return Next(item, "")
        follows, self._sent_last = self._sent_last, identity
        if not follows:
            self._opening = identity
        return Next(item, follows)

    def stored(self, subject: str, identity: str) -> None:
        """The server has acknowledged this record, which `next` had given out."""
        self.newest = identity
        if identity == self._opening:
            self._opening = ""
        behind = self._behind.get(subject)
        if behind is not None:
            if behind:
                self._ready.append(behind.popleft())
            else:
                del self._behind[subject]
