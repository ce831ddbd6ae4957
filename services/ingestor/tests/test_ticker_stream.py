from __future__ import annotations

import json

from services.common.subjects import StreamKey
from services.ingestor.integrity.sequencer import Numbering, Sequencer
from services.ingestor.streams import TickerStream
from services.ingestor.streams.raw_writer import RawStreamWriter
from services.ingestor.streams.stream import StreamStateTracker
from services.ingestor.testing import Counts, RawLog
from services.ingestor.testing.streams import NOW, statuses
from services.ingestor.venues.base import Quote

KEY = StreamKey("coinbase", "ticker", "BTC-USD")


class Bench:
    def __init__(self, held: int | None = None) -> None:
        self.log = RawLog()
        self.counts = Counts()
        self.asked = 0
        writer = RawStreamWriter(KEY, "test", self.log.offer, epoch=1, seq=held)
        self.stream = TickerStream(
            writer,
            StreamStateTracker(writer, NOW),
            Sequencer(Numbering.INCREASING, held, NOW if held else 0),
            self._ask,
            self.counts,
        )

    def _ask(self) -> None:
        self.asked += 1

    def ticker(self, sequence: int, trade_id: int, late_us: int = 0) -> None:
        self.stream.ticker(sequence, NOW + late_us, trade_id, b'{"s":%d}' % sequence, NOW)

    def written(self) -> list[tuple[str, int]]:
        return [(record.kind, record.seq) for record in self.log.of("frame", "resync", "gap")]


def test_only_newer_tickers_are_passed_on() -> None:
    bench = Bench()
    for sequence in (100, 348, 348, 120, 900):
        bench.ticker(sequence, 7)
    assert bench.written() == [("frame", 100), ("frame", 348), ("frame", 900)]
    assert bench.stream.duplicates == 2


def test_a_skipped_trade_id_is_a_cascade_and_no_loss() -> None:
    """coinbasepro-python #333: one ticker told of two trades in the same millisecond."""
    bench = Bench()
    bench.ticker(100, 41151855)
    bench.ticker(104, 41151857)
    assert bench.stream.coalesced == 1
    assert bench.counts.gaps == []


def test_two_heartbeats_that_know_of_a_newer_trade_ask_for_a_refresh() -> None:
    bench = Bench()
    bench.ticker(100, 7)
    bench.stream.heartbeat(150, 8, NOW)
    assert bench.asked == 0
    bench.stream.heartbeat(180, 8, NOW)
    assert bench.asked == 1
    assert not bench.stream.refreshed(Quote(7, NOW, b"{}"), NOW), "a CDN's old answer"
    assert bench.stream.refreshed(Quote(8, NOW, b'{"trade_id":8}'), NOW)
    assert bench.written() == [("frame", 100), ("resync", 180)]
    assert not bench.stream.behind
    bench.ticker(170, 8)
    bench.ticker(200, 9)
    assert bench.written()[2:] == [("frame", 200)]
    bench.log.check_chain()


def test_a_ticker_that_arrives_meanwhile_makes_the_refresh_needless() -> None:
    bench = Bench()
    bench.ticker(100, 7)
    bench.stream.heartbeat(150, 8, NOW)
    bench.stream.heartbeat(180, 8, NOW)
    bench.ticker(140, 8)
    assert not bench.stream.behind
    assert bench.stream.refreshed(Quote(8, NOW, b"{}"), NOW)
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
    bench.stream.heartbeat(111, 8, NOW)
    assert bench.written() == [("frame", 100), ("resync", 110)]
    assert json.loads(bytes(bench.log.of("resync")[0].body))["missed"] is None


def test_a_new_numbering_opens_a_new_epoch() -> None:
    bench = Bench(held=1_000)
    for sequence in (10, 11, 12, 13):
        bench.ticker(sequence, sequence, late_us=5_000_000)
    records = bench.log.of("frame")
    assert [(record.seq, record.prev) for record in records] == [(12, None), (13, 12)]
    assert records[0].epoch > 1


# ---------------------------------------------------------------------- edges


def behind(trade: int = 8) -> Bench:
    """One that waits for the ticker of a trade that two heartbeats know of."""
    bench = Bench()
    bench.ticker(100, 7)
    bench.stream.heartbeat(150, trade, NOW)
    bench.stream.heartbeat(180, trade, NOW)
    assert bench.stream.behind
    return bench


def test_it_is_asked_for_once_and_only_by_marks_that_follow_each_other() -> None:
    bench = Bench()
    bench.stream.heartbeat(90, 8, NOW)
    bench.stream.heartbeat(90, 8, NOW)
    assert bench.asked == 0, "no ticker told of a trade"
    bench.ticker(100, 7)
    bench.stream.heartbeat(150, 8, NOW)
    bench.stream.heartbeat(150, 7, NOW)
    bench.stream.heartbeat(150, 8, NOW)
    assert (bench.asked, bench.stream.gaps) == (0, 0)
    for _ in range(3):
        bench.stream.heartbeat(150, 8, NOW)
    assert (bench.asked, bench.stream.gaps, bench.counts.gaps) == (1, 1, ["heartbeat"])


def test_a_next_trade_is_in_order_and_one_after_it_is_a_cascade() -> None:
    bench = Bench()
    bench.ticker(100, 7)
    bench.ticker(101, 8)
    assert bench.stream.coalesced == 0
    bench.ticker(102, 10)
    assert (bench.stream.coalesced, bench.stream.extra()) == (1, {"coalesced": 1})
    assert bench.stream.messages == 3


def test_a_fetched_ticker_may_be_so_far_ahead_of_the_last_mark() -> None:
    for trade, taken in ((1_008, True), (1_009, False)):
        bench = behind()
        assert bench.stream.refreshed(Quote(trade, NOW, b"{}"), NOW) is taken
        assert bench.stream.behind is not taken


def test_a_fetched_ticker_stands_at_the_mark_or_behind_the_newest_one() -> None:
    bench = Bench()
    bench.ticker(500, 7)
    bench.stream.heartbeat(150, 8, NOW)
    bench.stream.heartbeat(180, 8, NOW)
    assert bench.stream.refreshed(Quote(8, NOW, b"{}"), NOW)
    assert bench.written() == [("frame", 500), ("resync", 501)]
    assert bench.counts.outcomes == ["snapshot"]
    assert b'"cause":"gap"' in bytes(bench.log.of("resync")[0].body)


def test_a_fetched_ticker_that_finds_no_room_is_still_awaited() -> None:
    bench = behind()
    bench.log.away = True
    assert bench.stream.refreshed(Quote(8, NOW, b"{}"), NOW)
    assert bench.stream.behind
    bench.log.away = False
    assert bench.stream.refreshed(Quote(8, NOW, b"{}"), NOW)
    assert not bench.stream.behind


def test_a_lost_connection_ends_the_waiting_and_the_counting() -> None:
    bench = behind()
    bench.stream.lost()
    assert not bench.stream.behind
    bench.stream.heartbeat(190, 8, NOW)
    assert bench.asked == 1
    bench.stream.heartbeat(190, 8, NOW)
    assert bench.asked == 2


def test_what_readers_go_without_is_fetched_also_of_the_trade_told_last() -> None:
    bench = Bench()
    bench.ticker(100, 7)
    bench.stream.heartbeat(100, 7, NOW)
    bench.stream.distrust("unreadable", "readers have no 100", NOW)
    bench.stream.distrust("unreadable", "readers have no 100", NOW)
    assert (bench.asked, bench.counts.gaps) == (1, ["unreadable"])
    assert bench.stream.refreshed(Quote(7, NOW, b"{}"), NOW)
    assert bench.written() == [("frame", 100), ("resync", 101)]


def test_of_three_tickers_without_room_the_first_two_are_named() -> None:
    bench = Bench()
    bench.log.away = True
    for sequence in (110, 120, 130):
        bench.ticker(sequence, sequence)
        assert bench.stream.waiting
    assert (bench.stream.gaps, bench.counts.gaps) == (1, ["broker_away"])
    assert not bench.stream.settle(NOW)
    bench.log.away = False
    assert bench.stream.settle(NOW)
    assert not bench.stream.waiting
    body = json.loads(bytes(bench.log.of("resync")[0].body))
    assert body["missed"] == {"from": 110, "to": 120}
    assert bench.counts.outcomes == ["lost"]
    assert bench.stream.settle(NOW), "written once"
    assert bench.written() == [("resync", 130)]


# ---------------------------------------------------------------------- what is said of it


def connected() -> Bench:
    """One whose stream is live, so that what ails it is its state."""
    bench = Bench()
    bench.stream.state.clear("down", "joined", NOW)
    return bench


def test_from_a_newer_trade_to_its_ticker_it_is_resyncing_and_says_why() -> None:
    bench = connected()
    bench.ticker(100, 7)
    bench.stream.heartbeat(150, 8, NOW + 1)
    bench.stream.heartbeat(180, 8, NOW + 2)
    bench.stream.ticker(200, NOW, 8, b"{}", NOW + 3)
    assert statuses(bench.log) == [
        ("live", "joined", 0),
        ("resyncing", "trade 8 is known, last ticker was of 7", 2),
        ("live", "ticker of trade 8", 3),
    ]
    assert bench.counts.outcomes == ["late"]


def test_a_fetched_ticker_ends_it_at_the_time_it_came() -> None:
    bench = connected()
    bench.ticker(100, 7)
    for second in (1, 2):
        bench.stream.heartbeat(150, 8, NOW + second)
    assert bench.stream.refreshed(Quote(8, NOW, b"{}"), NOW + 5)
    assert statuses(bench.log)[-1] == ("live", "ticker of trade 8", 5)


def test_what_readers_go_without_is_said() -> None:
    bench = connected()
    bench.stream.distrust("unreadable", "readers have no 100", NOW + 1)
    assert statuses(bench.log)[-1] == ("resyncing", "readers have no 100", 1)


def test_without_a_ticker_one_is_fetched_of_the_first_trade_too() -> None:
    bench = Bench()
    bench.stream.heartbeat(100, 1, NOW)
    bench.stream.distrust("unreadable", "readers have none", NOW)
    assert bench.stream.refreshed(Quote(1, NOW, b"{}"), NOW)
    assert bench.written() == [("resync", 100)]


def test_without_anything_a_fetched_ticker_is_the_first() -> None:
    bench = Bench()
    bench.stream.heartbeat(0, 1, NOW)
    bench.stream.distrust("unreadable", "readers have none", NOW)
    assert bench.stream.refreshed(Quote(1, NOW, b"{}"), NOW)
    assert bench.written() == [("resync", 1)]


def test_a_fetched_ticker_without_a_mark_stands_behind_the_newest_one() -> None:
    bench = Bench(held=40)
    bench.stream.heartbeat(0, 1, NOW)
    bench.stream.distrust("unreadable", "readers have none", NOW)
    assert bench.stream.refreshed(Quote(1, NOW, b"{}"), NOW)
    assert bench.written() == [("resync", 41)]


def test_a_status_without_room_is_offered_again_with_the_fetched_ticker() -> None:
    bench = connected()
    bench.ticker(100, 7)
    bench.stream.heartbeat(150, 8, NOW)
    bench.log.away = True
    bench.stream.heartbeat(180, 8, NOW + 1)
    bench.log.away = False
    assert bench.stream.refreshed(Quote(8, NOW, b"{}"), NOW + 2)
    assert statuses(bench.log)[1:] == [
        ("resyncing", "trade 8 is known, last ticker was of 7", 2),
        ("live", "ticker of trade 8", 2),
    ]


def test_a_single_ticker_without_room_costs_nothing_and_later_ones_are_counted() -> None:
    bench = Bench()
    bench.log.away = True
    bench.ticker(100, 7)
    bench.log.away = False
    assert bench.stream.settle(NOW)
    assert bench.counts.outcomes == ["snapshot"]


def test_cascades_are_counted() -> None:
    bench = Bench()
    for sequence, trade in ((100, 7), (101, 9), (102, 11), (103, 14)):
        bench.ticker(sequence, trade)
    assert bench.stream.extra() == {"coalesced": 3}


def _times(bench: Bench, *numbers: tuple[int, int]) -> list[tuple[str, int]]:
    """What is written when tickers of these sequences and times (seconds) come."""
    for sequence, second in numbers:
        bench.stream.ticker(sequence, NOW + second * 1_000_000, 0, b"{}", NOW)
    return bench.written()


ANEW = ((10, 20), (11, 20), (12, 20))


def test_a_numbering_is_known_by_the_newest_time_that_was_told() -> None:
    # Lower sequences with a time that is newer than any: the venue began anew.
    assert _times(Bench(), (1_000, 10), *ANEW)[1:] == [("frame", 12)]
    # The newest is that of the last, whether it was passed on, fetched or had no room.
    assert _times(Bench(), (1_000, 10), (2_000, 30), *ANEW)[2:] == []
    bench = Bench()
    _times(bench, (900, 10))
    bench.log.away = True
    _times(bench, (1_000, 30))
    bench.log.away = False
    assert _times(bench, *ANEW) == [("frame", 900)]
    bench = Bench()
    _times(bench, (1_000, 10))
    bench.stream.heartbeat(1_500, 8, NOW)
    bench.stream.distrust("unreadable", "readers have none", NOW)
    assert bench.stream.refreshed(Quote(8, NOW + 30_000_000, b"{}"), NOW)
    assert _times(bench, *ANEW)[2:] == []


def test_what_begins_anew_is_counted_and_forgets_the_trade_that_was_told() -> None:
    bench = Bench()
    bench.ticker(1_000, 700)
    for sequence in (10, 11, 12):
        bench.ticker(sequence, sequence, late_us=5_000_000)
    assert bench.counts.gaps == ["renumbered"]
    assert bench.written()[1:] == [("frame", 12)]
    # Of the new numbering: repeated, not newer, and newer.
    for sequence in (12, 11, 13):
        bench.ticker(sequence, sequence, late_us=6_000_000)
    assert bench.written()[2:] == [("frame", 13)]
    assert bench.stream.coalesced == 0
