"""What a publisher keeps of what was acknowledged, for the case that the log went back.

Servers acknowledge before the disk has it (Redis with `appendfsync everysec`: up to two seconds,
JetStream with its default `sync_interval`: up to two minutes), so a crash can take acknowledged
records away from a log's end. Whoever published them writes them again, in order, before anything
newer. Pure, and bounded in records and bytes: the oldest go first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

import msgspec

from services.common.stream.records import Record
from services.common.subjects import log_of

# JetStream's default `sync_interval` and some grace.
_MAX_AGE_S = 150.0


class _Kept(msgspec.Struct, frozen=True, gc=False):
    epoch: int
    record: Record
    size: int
    at: float

    @property
    def log(self) -> str:
        return log_of(self.record.subject)


class UnsyncedRecords:
    """Acknowledged records, oldest first."""

    def __init__(self, max_records: int, max_bytes: int) -> None:
        self._max_records = max_records
        self._max_bytes = max_bytes
        self._kept: deque[_Kept] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, record: Record, size: int, epoch: int, now: float) -> None:
        """`epoch` is that of the log that acknowledged it, `now` any clock's seconds."""
        self._kept.append(_Kept(epoch, record, size, now))
        self._bytes += size
        while len(self._kept) > self._max_records or self._bytes > self._max_bytes:
            self._bytes -= self._kept.popleft().size

    def forget(self, records: Collection[Record]) -> None:
        """Keep these no longer; they are those that `of` answered."""
        gone = {id(record) for record in records}
        self._kept = deque(kept for kept in self._kept if id(kept.record) not in gone)
        self._bytes = sum(kept.size for kept in self._kept)

    def logs(self) -> list[str]:
        return list(dict.fromkeys(kept.log for kept in self._kept))

    def of(self, log: str, epoch: int, retention_s: float, now: float) -> list[Record]:
        """What this incarnation of the log acknowledged of late and must still hold.

        A log that was lost as a whole is not written again: its successor has its own epoch, and
        those who number records begin anew in it. So its records are dropped here.
        """
        if any(kept.log == log and kept.epoch != epoch for kept in self._kept):
            self._kept = deque(
                kept for kept in self._kept if kept.log != log or kept.epoch == epoch
            )
            self._bytes = sum(kept.size for kept in self._kept)
        oldest = now - min(_MAX_AGE_S, retention_s / 2)
        return [kept.record for kept in self._kept if kept.log == log and kept.at >= oldest]
