"""The memory broker's storage: one log and its groups. Pure: fed records and the time, asked."""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from services.common.errors import PositionLost
from services.common.stream.memory.records import StoredRecord
from services.common.stream.records import LogSpec, Position, Record, number_in


class _Subject:
    """One subject's records. `purged` is the log sequence of its newest dropped record."""

    __slots__ = ("newest", "purged", "records")

    def __init__(self) -> None:
        self.records: list[StoredRecord] = []
        self.newest: Position | None = None
        self.purged = 0


class MemoryLog:
    """Records in order, by log and by subject, for as long as `spec.retention_s` says."""

    def __init__(self, spec: LogSpec, epoch: int) -> None:
        self.spec = spec
        self.epoch = epoch
        self.last_seq = 0
        self.groups: dict[str, GroupState] = {}
        # Up to which sequence each group has acked everything; outlives `groups`.
        self.acked: dict[str, int] = {}
        self._records: list[StoredRecord] = []
        self._subjects: dict[str, _Subject] = {}

    @property
    def first_seq(self) -> int:
        """Sequence of the oldest retained record, or of the next one when there is none."""
        return self._records[0].seq if self._records else self.last_seq + 1

    def append(self, record: Record, now: float) -> bool:
        """Store a record; False when its subject has had this position or a later one."""
        held = self._subjects.get(record.subject)
        if held is None:
            held = self._subjects[record.subject] = _Subject()
        if held.newest is not None and record.position <= held.newest:
            return False
        self.last_seq += 1
        stored = StoredRecord(record, self.last_seq, self._cursor(self.last_seq), now)
        held.newest = record.position
        held.records.append(stored)
        self._records.append(stored)
        self._trim(now)
        return True

    def had(self, record: Record) -> bool:
        """Whether it is there, or may have been before the oldest that is retained."""
        held = self._subjects[record.subject]
        if held.purged and not (held.records and record.position >= held.records[0].position):
            return True
        at = bisect_left(held.records, record.position, key=lambda stored: stored.position)
        return at < len(held.records) and held.records[at].position == record.position

    def _trim(self, now: float) -> None:
        retention = self.spec.retention_s
        # Dropping costs a move of what stays, so it is done for many records at once.
        if now - self._records[0].at <= retention + min(5.0, retention / 10):
            return
        expired = bisect_left(self._records, now - retention, key=lambda stored: stored.at)
        boundary = self._records[expired - 1].seq
        touched = {stored.subject for stored in self._records[:expired]}
        del self._records[:expired]
        for subject in touched:
            held = self._subjects[subject]
            count = bisect_right(held.records, boundary, key=lambda stored: stored.seq)
            held.purged = held.records[count - 1].seq
            del held.records[:count]

    def after(self, seq: int, limit: int) -> Sequence[StoredRecord]:
        """Up to `limit` retained records of any subject that follow log sequence `seq`."""
        start = max(0, seq + 1 - self.first_seq)
        return self._records[start : start + limit]

    def get(self, seq: int) -> StoredRecord | None:
        index = seq - self.first_seq
        return self._records[index] if 0 <= index < len(self._records) else None

    def subjects(self) -> list[str]:
        return sorted(subject for subject, held in self._subjects.items() if held.records)

    def of(self, subject: str) -> Sequence[StoredRecord]:
        """All retained records of a subject, oldest first; not to be changed."""
        held = self._subjects.get(subject)
        return held.records if held is not None else ()

    def read(self, subject: str, cursor: str, limit: int) -> tuple[list[StoredRecord], str, bool]:
        """Records after `cursor`, the cursor to go on from, and whether the head was reached.

        Raises:
            PositionLost: the cursor is another log's, or records after it were dropped.
        """
        held = self._subjects.get(subject) or _Subject()
        seq = self._parse(subject, cursor, held) if cursor else held.purged
        start = bisect_right(held.records, seq, key=lambda stored: stored.seq)
        found = held.records[start : start + limit]
        at_head = start + len(found) == len(held.records)
        # At the head nothing of this subject lies between the last record and the log's end.
        end = self._cursor(self.last_seq) if at_head else found[-1].cursor
        return found, found[-1].cursor if found else end, at_head

    def seek(self, subject: str, after: Position) -> str:
        records = self.of(subject)
        index = bisect_right(records, after, key=lambda stored: stored.position)
        return self._cursor(records[index].seq - 1 if index < len(records) else self.last_seq)

    def _cursor(self, seq: int) -> str:
        return f"{self.epoch}@{seq}"

    def _parse(self, subject: str, cursor: str, held: _Subject) -> int:
        epoch, _, text = cursor.partition("@")
        seq = number_in(text)
        if epoch != str(self.epoch) or seq is None or not held.purged <= seq <= self.last_seq:
            oldest = held.records[0].cursor if held.records else None
            raise PositionLost(subject, cursor, oldest)
        return seq


class GroupState:
    """Which records of a log were delivered and not acked, and what has to be delivered (again)."""

    def __init__(self, log: MemoryLog, max_pending: int, ack_wait_s: float, after: int = 0) -> None:
        """`after`: the group has acked everything up to there."""
        self._log = log
        self.max_pending = max_pending
        self.ack_wait_s = ack_wait_s
        self._delivered = max(after, log.first_seq - 1)
        # seq -> deadline. Each delivery is put at the end, so deadlines ascend.
        self._pending: dict[int, float] = {}
        self._returned: set[int] = set()
        self._order: list[int] = []

    def deliver(self, limit: int, now: float) -> list[StoredRecord]:
        """What a member gets now, at most `limit`: returned records first, then new ones."""
        self._expire(now)
        limit = min(limit, self.max_pending - len(self._pending))
        taken: list[StoredRecord] = []
        while self._order and len(taken) < limit:
            seq = heapq.heappop(self._order)
            stored = self._log.get(seq)
            if seq in self._returned and stored is not None:
                taken.append(stored)
            self._returned.discard(seq)
        fresh = self._log.after(self._delivered, max(0, limit - len(taken)))
        if fresh:
            self._delivered = fresh[-1].seq
            taken.extend(fresh)
        deadline = now + self.ack_wait_s
        for stored in taken:
            self._pending[stored.seq] = deadline
        return taken

    def ack(self, seqs: Sequence[int]) -> None:
        for seq in seqs:
            self._pending.pop(seq, None)
            self._returned.discard(seq)

    @property
    def acked(self) -> int:
        """Everything up to here is acked."""
        return min((*self._pending, *self._returned), default=self._delivered + 1) - 1

    def take_over(self) -> None:
        """A member joins: whatever is unacked is to be delivered again."""
        for seq in list(self._pending):
            self._give_back(seq)

    def next_deadline(self) -> float | None:
        """When the oldest unacked delivery is given to somebody else."""
        return next(iter(self._pending.values()), None)

    def lag(self) -> int:
        return self.unread() + len(self._pending)

    def unread(self) -> int:
        fresh = self._log.last_seq - max(self._delivered, self._log.first_seq - 1)
        return fresh + len(self._returned)

    def _expire(self, now: float) -> None:
        late = []
        for seq, deadline in self._pending.items():
            if deadline > now:
                break
            late.append(seq)
        for seq in late:
            self._give_back(seq)

    def _give_back(self, seq: int) -> None:
        del self._pending[seq]
        self._returned.add(seq)
        heapq.heappush(self._order, seq)
