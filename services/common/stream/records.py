"""What is published, stored and read, how a log is kept, and whether a broker stores. Pure.

A *record* is published on a *subject*, at a *position* in it. Stored, it is delivered as a
*message*, with a *cursor* to go on from. See `broker.py` for what is promised of them.

A server may answer every question and store nothing: its disk or its memory is full, a stream
stopped at a write error, a replica lost its leader. So what is judged is what it was given: how
long the oldest record has been waited for, of those that nobody confirmed.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from services.common.errors import InvalidSubject, RecordRefused
from services.common.subjects import INVALID_SUBJECT, key_of

# Both halves of a Redis entry id are unsigned 64 bits; what is archived has to fit signed ones.
MAX_NUMBER = 2**63 - 1


_is_number = re.compile(r"0|[1-9][0-9]{0,19}").fullmatch


def number_in(text: str) -> int | None:
    """The number that a part of a cursor says, 0 to 10^20 - 1; None for a text that none writes.

    Other texts of the same number (`007`, digits of other scripts) would be other cursors of it.
    """
    return None if _is_number(text) is None else int(text)


class Position(NamedTuple):
    """Where a record stands in its subject. Compares as a tuple.

    Each number is 0 to 2^63 - 1; seq and sub are not both 0.
    """

    epoch: int
    seq: int
    sub: int = 0


class Record(msgspec.Struct, frozen=True, gc=False):
    """A record to publish. `headers` carry trace context and are not part of its identity.

    A struct, as one is made for every message: a frozen dataclass takes five times as long.
    """

    subject: str
    payload: bytes
    position: Position
    headers: Mapping[str, str] | None = None


def check_record(record: Record) -> None:
    """Raise RecordRefused unless every broker could store this (its size apart).

    Some server would refuse it for ever, and everything behind it would wait. So it is not taken.
    """
    epoch, seq, sub = record.position
    # Nearly all are positions of events, so that this is asked of nearly all and no more.
    if not (0 < seq <= MAX_NUMBER and 0 <= sub <= MAX_NUMBER and 0 <= epoch <= MAX_NUMBER):
        _check_position(record.subject, record.position)
    try:
        if record.subject != INVALID_SUBJECT:
            key_of(record.subject)
    except InvalidSubject as error:
        raise RecordRefused(record.subject, error.reason) from error
    if record.headers:
        _check_headers(record.subject, record.headers)


def _check_position(subject: str, position: Position) -> None:
    for name, number in position._asdict().items():
        if not 0 <= number <= MAX_NUMBER:
            raise RecordRefused(subject, f"{name} {number} is not within 0 and {MAX_NUMBER}")
    if position.seq == 0 and position.sub == 0:
        raise RecordRefused(subject, "no position can be 0; count sub from 1 before the first seq")


def _check_headers(subject: str, headers: Mapping[str, str]) -> None:
    for name, value in headers.items():
        if not name or not name.isascii() or not name.isprintable() or ":" in name or " " in name:
            raise RecordRefused(subject, f"{name!r} cannot be the name of a header")
        try:
            value.encode()
        except (AttributeError, UnicodeEncodeError) as error:
            raise RecordRefused(subject, f"header {name}: {value!r} is no text") from error


class InFlight(msgspec.Struct, gc=False, eq=False):
    """A record that was taken and is not known to be stored."""

    record: Record
    size: int  # of what is sent of it, bytes, at most
    ticket: int = 0
    taken_at: float = 0.0  # by the window's clock
    stored: bool = False  # nothing more is to be done for it
    lost: bool = False  # it is not stored, and can never be
    replaced: bool = False  # it stands where one was that the server refused for good


class Message(ABC):
    """A stored record as it is delivered."""

    __slots__ = ()

    subject: str
    payload: bytes
    cursor: str

    @property
    @abstractmethod
    def position(self) -> Position: ...

    def is_at(self, epoch: int, seq: int, sub: int) -> bool:
        """Whether `position` is this one; cheaper, as nothing has to be read out of the record."""
        return self.position == (epoch, seq, sub)

    @property
    @abstractmethod
    def headers(self) -> Mapping[str, str]: ...


@dataclass(frozen=True, slots=True)
class LogSpec:
    """How a log is to be kept."""

    log: str  # its name, `raw`, `tick.<shard>` or `invalid`
    retention_s: float  # records older than this may be dropped by the broker
    duplicate_window_s: float = 120.0  # how long B3 is promised
    # In each replica; the oldest records go when it is reached, before their time. 0 is no bound.
    # Where a broker keeps by age alone it is not used (Redis, memory).
    max_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Held:
    """What a log holds: its bytes, the bound of them (0 for none), its oldest record's age."""

    size: int
    max_bytes: int
    oldest_s: float


@dataclass(frozen=True, slots=True)
class Page:
    """What `read` found: records in order, where to go on, and whether the head was reached."""

    messages: Sequence[Message]
    cursor: str
    at_head: bool


@dataclass(frozen=True, slots=True)
class LiveBatch:
    """Records that arrived together. `interrupted`: before these, some may have been missed."""

    messages: Sequence[Message]
    interrupted: bool = False


# Above what an election or a quick restart takes; below what subscribers may be shown as current.
NOT_STORING_S = 5.0


@dataclass(frozen=True, slots=True)
class PublisherStats:
    """Counters since the publisher was opened; `in_flight` and what follows are now."""

    sent: int  # records taken
    stored: int  # of these, stored by this publisher
    duplicates: int  # of these, found stored already
    retried: int  # sent once more
    in_flight: int  # not known to be stored
    bytes_in_flight: int  # the same in bytes
    # How long the oldest of these has been waited for: since it was taken, or since the one before
    # it was stored. 0 when there is none.
    stalled_s: float = 0.0
    # What is in the way of storing, as the server or the connection said it.
    trouble: str | None = None
    # Of those taken, and of what was acknowledged of late, found missing beneath a newer record of
    # their subject, where they can no longer be stored in order.
    lost: int = 0
    refused: int = 0  # refused for good by the server (`OnRefused`); also replaced ones


class Storing(NamedTuple):
    """The publisher that has waited longest."""

    # For how long its oldest record has been waited for; 0 when nobody waits.
    stalled_s: float = 0.0
    in_flight: int = 0  # how many records wait in it
    trouble: str | None = None  # what is in the way, as the server or the connection said it

    @property
    def problem(self) -> str | None:
        """Why this does not count as storing; None when it does."""
        if self.stalled_s < NOT_STORING_S:
            return None
        reason = self.trouble or "no answer"
        return f"nothing stored for {self.stalled_s:.0f} s, {self.in_flight} records wait: {reason}"


def storing(publishers: Iterable[PublisherStats]) -> Storing:
    """What is known of a broker from its open publishers."""
    return max(
        (Storing(stats.stalled_s, stats.in_flight, stats.trouble) for stats in publishers),
        key=lambda found: found.stalled_s,
        default=Storing(),
    )
