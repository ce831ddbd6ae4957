"""An in-memory end of the line for streams: what was written, in order, and a switch to refuse."""

from __future__ import annotations

from collections import Counter

from services.common.stream.records import Record
from services.common.subjects import StreamKey
from services.common.wire import UNCHAINED, RawRecord, decode_raw


class RawLog:
    """Give `offer` to writers. While `away` is set, every record is refused."""

    def __init__(self) -> None:
        self.records: list[RawRecord] = []
        self.away = False

    def offer(self, record: Record) -> bool:
        if self.away:
            return False
        self.records.append(decode_raw(record.payload))
        return True

    def of(self, *kinds: str) -> list[RawRecord]:
        """The records of these kinds, in order."""
        return [record for record in self.records if record.kind in kinds]

    def seqs(self, *kinds: str) -> list[int]:
        return [record.seq for record in self.of(*kinds)]

    def check_chain(self) -> None:
        """Assert that positions strictly increase and every record names its predecessor."""
        position: tuple[int, int, int] | None = None
        held: int | None = None
        epoch: int | None = None
        for record in self.records:
            here = (record.epoch, record.seq, record.sub)
            assert position is None or here > position, f"{here} after {position}"
            if epoch is None:
                # A writer that goes on where an earlier one ended names a record before these.
                held, epoch = record.prev, record.epoch
            elif record.epoch != epoch:
                held, epoch = None, record.epoch
            assert record.prev == held, f"prev {record.prev}, held {held}"
            if record.kind not in UNCHAINED:
                held = record.seq
            position = here


class Counts:
    """Implements `StreamEvents` by remembering."""

    def __init__(self) -> None:
        self.gaps: list[str] = []
        self.outcomes: list[str] = []
        self.drops: Counter[str] = Counter()
        self.lates: Counter[str] = Counter()

    def gap_found(self, _key: StreamKey, cause: str, /) -> None:
        self.gaps.append(cause)

    def resynced(self, _key: StreamKey, outcome: str, _seconds: float, /) -> None:
        self.outcomes.append(outcome)

    def late(self, _key: StreamKey, outcome: str, count: int, /) -> None:
        self.lates[outcome] += count

    def dropped(self, _key: StreamKey, reason: str, count: int, /) -> None:
        self.drops[reason] += count
