"""Streams of the ingestor by themselves, with what the venue says in short form."""

from __future__ import annotations

import json

from services.common.subjects import StreamKey
from services.ingestor.integrity.sequencer import Numbering, Sequencer
from services.ingestor.streams import BookStream, TradesStream
from services.ingestor.streams.raw_writer import RawStreamWriter
from services.ingestor.streams.stream_state import StreamStateTracker
from services.ingestor.testing.log import Counts, RawLog
from services.ingestor.venues.base import TradeRow

TRADES = StreamKey("coinbase", "trades", "BTC-USD")
BOOK = StreamKey("coinbase", "book", "BTC-USD")
NOW = 1_790_000_000_000_000


class TradesBench:
    """A stream of trades with its log."""

    def __init__(self, held: int | None = None, *, max_held: int = 20_000) -> None:
        self.log = RawLog()
        self.counts = Counts()
        self.asked = 0
        writer = RawStreamWriter(TRADES, "test", self.log.offer, epoch=1, seq=held)
        self.stream = TradesStream(
            writer,
            StreamStateTracker(writer, NOW),
            Sequencer(Numbering.CONTIGUOUS, held, NOW if held else 0),
            self._ask,
            self.counts,
            max_held=max_held,
        )

    def _ask(self) -> None:
        self.asked += 1

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


class BookBench:
    """A book's stream with its log; times are microseconds after `NOW`."""

    def __init__(self, held: int | None = None) -> None:
        self.log = RawLog()
        self.counts = Counts()
        self.asked = 0
        writer = RawStreamWriter(BOOK, "test", self.log.offer, epoch=1, seq=held)
        self.stream = BookStream(
            writer,
            StreamStateTracker(writer, NOW),
            Sequencer(Numbering.BY_TIME),
            self._ask,
            self.counts,
        )

    def _ask(self) -> None:
        self.asked += 1

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
