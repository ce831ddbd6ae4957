"""Archive batches: records in, objects out. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from services.common.stores.index import Head, IndexedObject, Span
from services.common.stores.layout import Partition, archive_key, end_mark, mark, partition_of
from services.common.subjects import StreamKey


class BatchedRecord(NamedTuple):
    """One record of a batch: what the archive has to know of it, and its line."""

    key: StreamKey
    head: Head
    ts: int
    line: bytes


@dataclass(frozen=True, slots=True)
class SealedObject:
    """An object to write: its place in the index, and its records in order."""

    partition: Partition
    records: Sequence[BatchedRecord]

    @property
    def entry(self) -> IndexedObject:
        first, last = self.records[0], self.records[-1]
        spans: dict[str, Span] = {}
        for record in self.records:
            stream = str(record.key)
            held = spans.get(stream)
            start, count = (held.first, held.count) if held else (record.head.position, 0)
            spans[stream] = Span(start, record.head, count + 1)
        name = archive_key(
            self.partition,
            mark(first.key, first.head.position, first.ts),
            end_mark(self.lines, last.ts),
        )
        return IndexedObject(name, spans)

    @property
    def lines(self) -> list[bytes]:
        return [record.line for record in self.records]

    def beyond(self, heads: Mapping[str, Head]) -> SealedObject:
        """The same without what `heads` already covers."""
        kept = [
            record
            for record in self.records
            if (held := heads.get(str(record.key))) is None or record.head.position > held.position
        ]
        return SealedObject(self.partition, kept)


@dataclass(frozen=True, slots=True)
class SealedBatch:
    """A batch that takes no more records."""

    objects: Sequence[SealedObject]  # in an order in which no stream goes backwards
    refilled: int  # bytes of records that the broker has not delivered yet

    @property
    def count(self) -> int:
        return sum(len(sealed.records) for sealed in self.objects)

    @property
    def heads(self) -> dict[str, Head]:
        """The last record of each stream in the batch."""
        return {
            str(record.key): record.head for sealed in self.objects for record in sealed.records
        }

    def beyond(self, heads: Mapping[str, Head]) -> SealedBatch:
        """The same without what `heads` already covers; perhaps nothing is left."""
        rest = (sealed.beyond(heads) for sealed in self.objects)
        return SealedBatch([sealed for sealed in rest if sealed.records], self.refilled)


class Batch:
    """Collects records of one log until the batch is due.

    Args:
        kind: `ticks` or `raw`, the first part of the objects' keys.
        period_s: due when the first record was added so long ago,
        max_bytes: or the records have so many bytes together,
        max_records: or there are so many.
    """

    def __init__(self, kind: str, *, period_s: float, max_bytes: int, max_records: int) -> None:
        self._kind = kind
        self._period = period_s
        self._max_bytes = max_bytes
        self._max_records = max_records
        self._clear()

    def _clear(self) -> None:
        self._parts: dict[Partition, list[BatchedRecord]] = {}
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
        self._parts.setdefault(partition, []).append(
            BatchedRecord(key, head, ts, one_line(payload))
        )
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
            SealedObject(partition, records)
            for partition, records in sorted(self._parts.items(), key=lambda item: item[0].hour)
        ]
        sealed = SealedBatch(objects, self.refilled)
        self._clear()
        return sealed


def one_line(payload: bytes) -> bytes:
    """A JSON text on one line. Strings cannot hold line breaks, so only white space changes."""
    if b"\n" in payload or b"\r" in payload:
        return payload.replace(b"\r", b" ").replace(b"\n", b" ")
    return payload
