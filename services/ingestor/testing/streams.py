"""Streams of the ingestor by themselves: what the venue says in short form, and where they write.

That is an in-memory end of the line: what was written, in order, and a switch to refuse.
"""

from __future__ import annotations

import json
from collections import Counter

from services.common.stream import Record
from services.common.subjects import StreamKey
from services.common.wire import UNCHAINED, RawRecord, decode_raw
from services.ingestor.integrity.sequencer import Numbering, Sequencer
from services.ingestor.streams import BookStream, TradesStream
from services.ingestor.streams.raw_writer import RawStreamWriter
from services.ingestor.streams.stream import StreamStateTracker
from services.ingestor.venues.base import TradeRow


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


TRADES = StreamKey("coinbase", "trades", "BTC-USD")
BOOK = StreamKey("coinbase", "book", "BTC-USD")
NOW = 1_790_000_000_000_000


class _Bench:
    """What a stream is made of, with its log."""

    def __init__(self, key: StreamKey, held: int | None, sequencer: Sequencer) -> None:
        self.log = RawLog()
        self.counts = Counts()
        self.asked = 0
        writer = RawStreamWriter(key, "test", self.log.offer, epoch=1, seq=held)
        state = StreamStateTracker(writer, NOW)
        self.parts = (writer, state, sequencer, self._ask, self.counts)

    def _ask(self) -> None:
        self.asked += 1


class TradesBench(_Bench):
    """A stream of trades with its log."""

    def __init__(self, held: int | None = None, *, max_held: int = 20_000) -> None:
        super().__init__(TRADES, held, Sequencer(Numbering.CONTIGUOUS, held, NOW if held else 0))
        self.stream = TradesStream(*self.parts, max_held=max_held)

    def trade(self, *numbers: int, late_us: int = 0) -> None:
        for number in numbers:
            time = NOW + late_us
            self.stream.trade(number, time, b'{"type":"match","trade_id":%d}' % number, NOW)

    def refill(self, *numbers: int) -> int:
        return self.stream.refill([row(number) for number in numbers], NOW)

    @property
    def frames(self) -> list[int]:
        return self.log.seqs("frame")


def row(number: int) -> TradeRow:
    return TradeRow(number, NOW, b'{"trade_id":%d}' % number)


class BookBench(_Bench):
    """A book's stream with its log; times are microseconds after `NOW`."""

    def __init__(self, held: int | None = None) -> None:
        super().__init__(BOOK, held, Sequencer(Numbering.BY_TIME))
        self.stream = BookStream(*self.parts)

    def update(self, *times: int) -> None:
        for time in times:
            self.stream.update(NOW + time, b'{"t":%d}' % time, NOW + time)

    def snapshot(self, time: int) -> None:
        self.stream.snapshot(NOW + time, b'{"snapshot":%d}' % time, NOW + time)

    @property
    def written(self) -> list[tuple[str, int]]:
        return [(record.kind, record.seq - NOW) for record in self.log.of("frame", "resync", "gap")]


def statuses(log: RawLog) -> list[tuple[str, str, int]]:
    """State, evidence and time (microseconds after `NOW`) of each that was written."""
    found = []
    for record in log.of("status"):
        body = json.loads(bytes(record.body))
        found.append((body["state"], body["evidence"], record.ts_recv - NOW))
    return found
