from __future__ import annotations

import json

from services.common.subjects import StreamKey
from services.ingestor.condition import Condition
from services.ingestor.journal import Journal
from services.ingestor.lanes import TickerLane
from services.ingestor.sequencer import Numbering, Sequencer
from services.ingestor.testing import Counts, RawLog
from services.ingestor.venues.base import Quote

KEY = StreamKey("coinbase", "ticker", "BTC-USD")
NOW = 1_790_000_000_000_000


class Bench:
    def __init__(self, held: int | None = None) -> None:
        self.log = RawLog()
        self.counts = Counts()
        self.asked = 0
        journal = Journal(KEY, "test", self.log.offer, epoch=1, seq=held)
        self.lane = TickerLane(
            journal,
            Condition(journal, NOW),
            Sequencer(Numbering.INCREASING, held, NOW if held else 0),
            self._ask,
            self.counts,
        )

    def _ask(self) -> None:
        self.asked += 1

    def ticker(self, sequence: int, trade_id: int, late_us: int = 0) -> None:
        self.lane.ticker(sequence, NOW + late_us, trade_id, b'{"s":%d}' % sequence, NOW)

    def written(self) -> list[tuple[str, int]]:
        return [(record.kind, record.seq) for record in self.log.of("frame", "resync", "gap")]


def test_only_newer_tickers_are_passed_on() -> None:
    bench = Bench()
    for sequence in (100, 348, 348, 120, 900):
        bench.ticker(sequence, 7)
    assert bench.written() == [("frame", 100), ("frame", 348), ("frame", 900)]
    assert bench.lane.duplicates == 2


def test_a_skipped_trade_id_is_a_cascade_and_no_loss() -> None:
    """coinbasepro-python #333: one ticker told of two trades in the same millisecond."""
    bench = Bench()
    bench.ticker(100, 41151855)
    bench.ticker(104, 41151857)
    assert bench.lane.coalesced == 1
    assert bench.counts.gaps == []


def test_two_heartbeats_that_know_of_a_newer_trade_ask_for_a_refresh() -> None:
    bench = Bench()
    bench.ticker(100, 7)
    bench.lane.heartbeat(150, 8, NOW)
    assert bench.asked == 0
    bench.lane.heartbeat(180, 8, NOW)
    assert bench.asked == 1
    assert not bench.lane.refreshed(Quote(7, NOW, b"{}"), NOW), "a CDN's old answer"
    assert bench.lane.refreshed(Quote(8, NOW, b'{"trade_id":8}'), NOW)
    assert bench.written() == [("frame", 100), ("resync", 180)]
    assert not bench.lane.behind
    bench.ticker(170, 8)
    bench.ticker(200, 9)
    assert bench.written()[2:] == [("frame", 200)]
    bench.log.check_chain()


def test_a_ticker_that_arrives_meanwhile_makes_the_refresh_needless() -> None:
    bench = Bench()
    bench.ticker(100, 7)
    bench.lane.heartbeat(150, 8, NOW)
    bench.lane.heartbeat(180, 8, NOW)
    bench.ticker(140, 8)
    assert not bench.lane.behind
    assert bench.lane.refreshed(Quote(8, NOW, b"{}"), NOW)
    assert bench.written() == [("frame", 100), ("frame", 140)]


def test_of_tickers_the_broker_had_no_room_for_the_newest_is_kept_and_names_the_others() -> None:
    bench = Bench()
    bench.ticker(100, 7)
    bench.log.away = True
    bench.ticker(110, 8)
    bench.ticker(120, 9)
    bench.log.away = False
    bench.ticker(130, 10)
    assert bench.written() == [("frame", 100), ("resync", 120), ("frame", 130)]
    body = json.loads(bytes(bench.log.of("resync")[0].body))
    assert (body["cause"], body["repair"]) == ("broker_away", "snapshot")
    assert body["missed"] == {"from": 110, "to": 110}
    assert bench.counts.drops["broker_away"] == 1


def test_a_quiet_stream_writes_what_waits_at_the_next_heartbeat() -> None:
    bench = Bench()
    bench.ticker(100, 7)
    bench.log.away = True
    bench.ticker(110, 8)
    bench.log.away = False
    bench.lane.heartbeat(111, 8, NOW)
    assert bench.written() == [("frame", 100), ("resync", 110)]
    assert json.loads(bytes(bench.log.of("resync")[0].body))["missed"] is None


def test_a_new_numbering_opens_a_new_epoch() -> None:
    bench = Bench(held=1_000)
    for sequence in (10, 11, 12, 13):
        bench.ticker(sequence, sequence, late_us=5_000_000)
    records = bench.log.of("frame")
    assert [(record.seq, record.prev) for record in records] == [(12, None), (13, 12)]
    assert records[0].epoch > 1
