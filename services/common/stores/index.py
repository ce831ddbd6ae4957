"""The archive's index: which objects hold which positions of which streams. Pure.

Every batch the snapshotter archives is a *commit*, numbered 1, 2, 3, ... per log. A commit lists
its objects and, cumulatively, how far each stream of the log is archived. Two things follow:

- a reader finds the first object that can hold (stream, position) by bisecting the numbers;
- a restarted snapshotter knows exactly what is archived, so it archives every record once.

A commit is first written as `pending`, then its objects, then under its number. What a crash left
between is finished or dropped by `settle_pending`. Readers look at numbered commits only.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from services.common.stores.packed import unpacked
from services.common.stream import Position
from services.common.wire import UNREADABLE


class Head(msgspec.Struct, frozen=True):
    """How far a stream is archived; `cursor` is the broker's, to go on from there."""

    position: Position
    cursor: str


class Span(msgspec.Struct, frozen=True):
    """The part of a stream that an object holds, both ends included."""

    first: Position
    last: Head
    count: int


class IndexedObject(msgspec.Struct, frozen=True):
    """What the index says of one object."""

    key: str
    streams: dict[str, Span]


class Commit(msgspec.Struct, frozen=True):
    """`heads` covers every stream ever archived from this log, including this commit's."""

    v: int
    log: str
    number: int
    ts: int
    objects: list[IndexedObject]
    heads: dict[str, Head]

    def objects_of(self, stream: str, after: Position) -> list[str]:
        """Keys of the objects that hold records of `stream` with a position > `after`."""
        return [
            entry.key
            for entry in self.objects
            if (span := entry.streams.get(stream)) is not None and span.last.position > after
        ]

    def reaches(self, stream: str, after: Position) -> bool:
        """Whether a record of `stream` with a position > `after` is archived by now."""
        head = self.heads.get(stream)
        return head is not None and head.position > after


class BadCommit(ValueError):
    """An index object that cannot be read."""


_decode = msgspec.json.Decoder(Commit).decode


def pack_commit(commit: Commit) -> bytes:
    return gzip.compress(msgspec.json.encode(commit), 6, mtime=0)


def unpack_commit(stored: bytes) -> Commit:
    """Read an index object. Raises BadCommit when it is not one."""
    try:
        return _decode(unpacked(stored))
    except (OSError, EOFError, zlib.error, *UNREADABLE) as error:
        raise BadCommit(f"not an index object: {error!r}") from error


def next_commit(
    log: str, previous: Commit | None, objects: Sequence[IndexedObject], ts: int
) -> Commit:
    """The commit that adds `objects` to what `previous` has."""
    heads: dict[str, Head] = dict(previous.heads) if previous is not None else {}
    for entry in objects:
        heads |= {stream: span.last for stream, span in entry.streams.items()}
    number = previous.number + 1 if previous is not None else 1
    return Commit(v=1, log=log, number=number, ts=ts, objects=list(objects), heads=heads)


@dataclass(frozen=True, slots=True)
class Settlement:
    """What to do about an unfinished commit: write `commit` (if any), delete `orphans`."""

    commit: Commit | None
    orphans: Sequence[str]


def settle_pending(
    pending: Commit, previous: Commit | None, existing: Collection[str]
) -> Settlement:
    """Keep of an unfinished commit what was stored, as far as no stream gets a hole by it.

    An object that exists is dropped only when an earlier part of one of its streams is missing.
    """
    kept: list[IndexedObject] = []
    orphans: list[str] = []
    broken: set[str] = set()
    for entry in pending.objects:
        if entry.key in existing and broken.isdisjoint(entry.streams):
            kept.append(entry)
            continue
        if entry.key in existing:
            orphans.append(entry.key)
        broken |= set(entry.streams)
    commit = next_commit(pending.log, previous, kept, pending.ts) if kept else None
    return Settlement(commit, orphans)


def archived_heads(commit: Commit | None) -> Mapping[str, Head]:
    return commit.heads if commit is not None else {}
