"""Raw records on their way from a recording to the log: read, chosen, counted."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from services.common.stream import Position, Record
from services.common.subjects import StreamKey, raw_subject
from services.common.wire import UNREADABLE, RawRecord

_decode = msgspec.json.Decoder(RawRecord).decode


class BadSource(Exception):
    """A recording that cannot be replayed; the text says where and why."""


class Recorded(NamedTuple):
    """One raw record as it was recorded; `ts` is when the ingestor received it, microseconds."""

    ts: int
    key: StreamKey
    position: Position
    prev: int | None
    prev_sub: int | None
    payload: bytes

    def record(self) -> Record:
        """The same, ready to be published."""
        return Record(raw_subject(self.key), self.payload, self.position)


def read_line(line: bytes) -> Recorded:
    """Read one line of a raw batch. Raises BadSource if it is not a raw record."""
    try:
        record = _decode(line)
    except UNREADABLE as error:
        raise BadSource(f"not a raw record: {error}") from error
    return Recorded(
        record.ts_recv,
        StreamKey(record.venue, record.channel, record.product),
        Position(record.epoch, record.seq, record.sub),
        record.prev,
        record.prev_sub,
        line,
    )


@dataclass(frozen=True, slots=True)
class Selection:
    """Which records are wanted; empty sets and None want all.

    Received from `start` on and before `end`, microseconds.
    """

    products: frozenset[str] = frozenset()
    channels: frozenset[str] = frozenset()
    start: int | None = None
    end: int | None = None

    def wants_stream(self, key: StreamKey) -> bool:
        return (not self.products or key.product in self.products) and (
            not self.channels or key.channel in self.channels
        )

    def wants_time(self, ts: int) -> bool:
        return (self.start is None or ts >= self.start) and (self.end is None or ts < self.end)

    def wants(self, recorded: Recorded) -> bool:
        return self.wants_time(recorded.ts) and self.wants_stream(recorded.key)


class Source(ABC):
    """Recorded raw records of a selection, each stream's in order.

    Both methods raise `BadSource` when the recording cannot be read, `StoreError` when the bucket
    does not answer and OSError when a file cannot be read.
    """

    @property
    def left_out(self) -> Mapping[str, int]:
        """How much of it was passed over, by reason, when it was last read."""
        return {}

    @abstractmethod
    async def span(self) -> tuple[int, int] | None:
        """Receive times between which the records lie, about, microseconds; None: nothing there."""

    @abstractmethod
    def records(self) -> AsyncGenerator[Recorded]:
        """The records in the order of receiving, as far as their streams' order allows."""


@dataclass(slots=True)
class StreamCount:
    """What was seen of one stream. A hole: a record whose predecessor was not the one before it."""

    last: Position
    records: int = 0
    already: int = 0
    holes: int = 0


@dataclass(slots=True)
class Ledger:
    """Counts what is replayed and proves its chain, stream by stream."""

    streams: dict[StreamKey, StreamCount] = field(default_factory=dict)
    bytes: int = 0
    first_ts: int | None = None
    last_ts: int = 0

    def add(self, recorded: Recorded, *, already: bool) -> None:
        """Take the next record of its stream; `already`: the log holds it, or a newer one.

        Raises:
            BadSource: the stream goes backwards, so the recording's order cannot be trusted.
        """
        count = self.streams.get(recorded.key)
        position = recorded.position
        if count is None:
            count = self.streams[recorded.key] = StreamCount(position)
        elif position <= count.last:
            raise BadSource(
                f"{recorded.key} goes backwards from {tuple(count.last)} to {tuple(position)}"
            )
        elif not _follows(recorded, count.last):
            count.holes += 1
        count.last = position
        count.records += 1
        count.already += already
        self.bytes += len(recorded.payload)
        self.first_ts = recorded.ts if self.first_ts is None else min(self.first_ts, recorded.ts)
        self.last_ts = max(self.last_ts, recorded.ts)

    @property
    def records(self) -> int:
        return sum(count.records for count in self.streams.values())

    @property
    def already(self) -> int:
        return sum(count.already for count in self.streams.values())

    @property
    def holes(self) -> int:
        return sum(count.holes for count in self.streams.values())


def _follows(recorded: Recorded, held: Position) -> bool:
    position = recorded.position
    if position.epoch != held.epoch:
        # A numbering that began anew names no predecessor.
        return recorded.prev is None
    if position.seq == held.seq:
        return position.sub == held.sub + 1
    sub_follows = recorded.prev_sub is None or recorded.prev_sub == held.sub
    # A stream's very first statuses stand at seq 0, which is no predecessor.
    return sub_follows and (recorded.prev or 0) == held.seq
