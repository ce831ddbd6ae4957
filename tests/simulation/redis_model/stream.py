"""A stream: entries in the order of their ids, its bounds, and what it remembers of those gone."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import NamedTuple

from tests.simulation.redis_model.answers import Refused
from tests.simulation.redis_model.group import Group

_LARGEST = 2**64 - 1


class Id(NamedTuple):
    """An entry's id: milliseconds, or whatever who wrote it chose, and a number in it."""

    ms: int
    seq: int

    def written(self) -> bytes:
        return b"%d-%d" % self


ZERO = Id(0, 0)
LAST = Id(_LARGEST, _LARGEST)


def invalid_id() -> Refused:
    return Refused("ERR Invalid stream ID specified as stream command argument")


def read_id(text: bytes, missing: int = 0) -> Id:
    """An id; without its second part that is `missing`.

    Raises:
        Refused: it is none.
    """
    ms, dash, seq = text.partition(b"-")
    return Id(_part(ms), _part(seq) if dash else missing)


def _part(text: bytes) -> int:
    if not text.isdigit() or int(text) > _LARGEST:
        raise invalid_id()
    return int(text)


def read_bound(text: bytes, *, first: bool) -> Id:
    """An end of a range, as the first or the last id that lies in it.

    Raises:
        Refused: it is none.
    """
    if text in (b"-", b"+"):
        return ZERO if text == b"-" else LAST
    excluded = text[:1] == b"("
    bound = read_id(text[1:] if excluded else text, 0 if first else _LARGEST)
    if not excluded:
        return bound
    if bound == (LAST if first else ZERO):
        which = "start" if first else "end"
        raise Refused(f"ERR invalid {which} ID for the interval")
    return after(bound) if first else before(bound)


def after(one: Id) -> Id:
    """The id directly behind; it is not the last."""
    return Id(one.ms, one.seq + 1) if one.seq < _LARGEST else Id(one.ms + 1, 0)


def before(one: Id) -> Id:
    """The id directly before; it is not the first."""
    return Id(one.ms, one.seq - 1) if one.seq else Id(one.ms - 1, _LARGEST)


class Stream:
    """One stream. An entry's fields are a flat list of names and values."""

    def __init__(self) -> None:
        self.entries: dict[Id, list[bytes]] = {}
        self.ids: list[Id] = []
        self.last = ZERO
        self.added = 0
        self.bytes = 0
        self.groups: dict[bytes, Group] = {}

    @property
    def first(self) -> Id:
        """Of the oldest entry; zero without any."""
        return self.ids[0] if self.ids else ZERO

    def next_id(self, text: bytes, now_ms: int) -> Id:
        """The id that an entry gets which is added as `text` asks.

        Raises:
            Refused: that is none, or one that is not free any more.
        """
        if self.last == LAST:
            said = "The stream has exhausted the last possible ID, unable to add more items"
            raise Refused(f"ERR {said}")
        if text == b"*":
            return Id(now_ms, 0) if now_ms > self.last.ms else after(self.last)
        if text.endswith(b"-*"):
            ms = _part(text[:-2])
            if ms == self.last.ms and self.last.seq < _LARGEST:
                return after(self.last)
            asked = Id(ms, 0) if ms != self.last.ms else self.last
            asked = Id(0, 1) if asked == ZERO else asked
        else:
            asked = read_id(text)
            if asked == ZERO:
                raise Refused("ERR The ID specified in XADD must be greater than 0-0")
        if asked <= self.last:
            said = "is equal or smaller than the target stream top item"
            raise Refused(f"ERR The ID specified in XADD {said}")
        return asked

    def add(self, identity: Id, fields: list[bytes]) -> None:
        self.entries[identity] = fields
        self.ids.append(identity)
        self.last = identity
        self.added += 1
        self.bytes += sum(map(len, fields))

    def between(self, first: Id, last: Id, count: int | None = None) -> list[Id]:
        """The ids in a range, oldest first; at most the `count` first."""
        begin, end = bisect_left(self.ids, first), bisect_right(self.ids, last)
        return self.ids[begin : end if count is None else min(end, begin + count)]

    def newest_between(self, first: Id, last: Id, count: int | None = None) -> list[Id]:
        """The ids in a range, newest first; at most the `count` first of these."""
        found = self.between(first, last)[::-1]
        return found if count is None else found[:count]

    def drop_first(self, count: int) -> int:
        """Let go of the oldest entries; how many these were."""
        gone = self.ids[: max(0, count)]
        for identity in gone:
            self.bytes -= sum(map(len, self.entries.pop(identity)))
        del self.ids[: len(gone)]
        return len(gone)

    def drop_before(self, identity: Id) -> int:
        """Let go of the entries with smaller ids."""
        return self.drop_first(bisect_left(self.ids, identity))

    # -- the count of entries up to an id, which groups keep

    def counted_up_to(self, identity: Id) -> int | None:
        """How many entries were ever added up to an id; None where that is not known."""
        if not self.added:
            return 0
        if not self.ids and identity <= self.last:
            return self.added
        if identity == self.last:
            return self.added
        if identity > self.last:
            return None
        if identity < self.first:
            return self.added - len(self.ids)
        return self.added - len(self.ids) + 1 if identity == self.first else None

    def unread_by(self, group: Group) -> int | None:
        """How many entries a group was not given; None where that is not known."""
        if not self.added:
            return 0
        known = group.read
        if known is None:
            known = self.counted_up_to(group.last)
        return None if known is None else self.added - known
