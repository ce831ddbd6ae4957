"""Archive batches: records in, objects out. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from services.common.stores.index import Head, ObjectEntry, Span
from services.common.stores.layout import Partition, archive_key, mark, partition_of
from services.common.subjects import StreamKey


@dataclass(slots=True)
class _Part:
    """Records that go into one object, in the order they came."""

    first: str
    last: str
    lines: list[bytes] = field(default_factory=list)
    spans: dict[str, Span] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SealedObject:
    entry: ObjectEntry
    lines: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class SealedBatch:
    """A batch that takes no more records.

    Attributes:
        objects: in an order in which no stream goes backwards.
        heads: the last record of each stream in the batch.
        refilled: bytes of records that the broker has not delivered yet.
    """

    objects: Sequence[SealedObject]
    heads: Mapping[str, Head]
    records: int
    refilled: int


class Batch:
    """Collects records of one log until the batch is due.

    Args:
        kind: `ticks` or `raw`, the first part of the objects' keys.
        period_s: due when the first record was added so long ago.
        max_bytes: due when the records have so many bytes together.
        max_records: due when there are so many records.
    """

    def __init__(self, kind: str, *, period_s: float, max_bytes: int, max_records: int) -> None:
        self._kind = kind
        self._period = period_s
        self._max_bytes = max_bytes
        self._max_records = max_records
        self._clear()

    def _clear(self) -> None:
        self._parts: dict[Partition, _Part] = {}
        self._hours: dict[StreamKey, Partition] = {}
        self._opened: float | None = None
        self.records = 0
        self.bytes = 0
        self.refilled = 0

    def add(
        self,
        key: StreamKey,
        shard: int,
        head: Head,
        ts: int,
        payload: bytes,
        now: float,
        *,
        refilled: bool,
    ) -> None:
        """Add a record of `key` that was received at `ts`; positions of a stream must ascend."""
        partition = partition_of(self._kind, key, ts, shard)
        # A clock that was set back must not put a later record into an earlier object.
        held = self._hours.get(key)
        if held is not None and held.hour > partition.hour:
            partition = held
        self._hours[key] = partition
        name = mark(key, head.position, ts)
        part = self._parts.get(partition)
        if part is None:
            part = self._parts[partition] = _Part(first=name, last=name)
        part.last = name
        part.lines.append(one_line(payload))
        part.spans[str(key)] = _extended(part.spans.get(str(key)), head)
        if self._opened is None:
            self._opened = now
        self.records += 1
        self.bytes += len(payload)
        if refilled:
            self.refilled += len(payload)

    def due_at(self) -> float | None:
        """When the batch is to be sealed (perhaps long ago); None while it is empty."""
        if self._opened is None:
            return None
        if self.bytes >= self._max_bytes or self.records >= self._max_records:
            return self._opened
        return self._opened + self._period

    def seal(self) -> SealedBatch:
        """What was collected; the batch is empty afterwards."""
        objects = [
            SealedObject(
                ObjectEntry(archive_key(partition, part.first, part.last), part.spans), part.lines
            )
            for partition, part in sorted(self._parts.items(), key=lambda item: item[0].hour)
        ]
        heads = {
            stream: span.last for sealed in objects for stream, span in sealed.entry.streams.items()
        }
        sealed = SealedBatch(objects, heads, self.records, self.refilled)
        self._clear()
        return sealed


def one_line(payload: bytes) -> bytes:
    """A JSON text on one line. Strings cannot hold line breaks, so only white space changes."""
    if b"\n" in payload or b"\r" in payload:
        return payload.replace(b"\r", b" ").replace(b"\n", b" ")
    return payload


def _extended(span: Span | None, head: Head) -> Span:
    if span is None:
        return Span(head.position, head, 1)
    return Span(span.first, head, span.count + 1)
