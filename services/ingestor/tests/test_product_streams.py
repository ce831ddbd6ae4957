from __future__ import annotations

from services.common.subjects import StreamKey
from services.ingestor.integrity.book_replica import BookReplica
from services.ingestor.integrity.sequencer import Gap, Numbering, Sequencer
from services.ingestor.streams import BookStream, ProductStreams, TickerStream, TradesStream, Want
from services.ingestor.streams.raw_writer import RawStreamWriter
from services.ingestor.streams.stream import StreamStateTracker
from services.ingestor.testing import Counts, RawLog
from services.ingestor.venues.base import BookImage, Event, Kind, TradeRow

NOW = 1_790_000_000_000_000
SECOND = 1_000_000
SUSPECT = 3 * SECOND


class Bench:
    def __init__(self) -> None:
        self.logs = {channel: RawLog() for channel in ("trades", "book", "ticker")}
        self.wants: list[Want] = []
        self.counts = Counts()
        self.replica = BookReplica()
        trades, book, ticker = (self._writer(channel) for channel in self.logs)
        self.streams = ProductStreams(
            "BTC-USD",
            TradesStream(
                trades,
                StreamStateTracker(trades, NOW),
                Sequencer(Numbering.CONTIGUOUS),
                lambda: self.wants.append(Want.TRADES),
                self.counts,
            ),
            BookStream(
                book,
                StreamStateTracker(book, NOW),
                Sequencer(Numbering.BY_TIME),
                lambda: self.wants.append(Want.BOOK),
                self.counts,
                replica=self.replica,
            ),
            TickerStream(
                ticker,
                StreamStateTracker(ticker, NOW),
                Sequencer(Numbering.INCREASING),
                lambda: self.wants.append(Want.TICKER),
                self.counts,
            ),
            self.wants.append,
        )
        self.streams.connected(NOW)

    def _writer(self, channel: str) -> RawStreamWriter:
        key = StreamKey("coinbase", channel, "BTC-USD")
        return RawStreamWriter(key, "test", self.logs[channel].offer, epoch=1)

    def feed(self, kind: Kind, number: int = 0, at: int = 0, trade_id: int = 0) -> None:
        self.streams.feed(Event(kind, "BTC-USD", number, NOW + at, trade_id), b"{}", NOW + at)

    def states(self, channel: str) -> list[str]:
        return [
            bytes(record.body).decode().split('"')[3] for record in self.logs[channel].of("status")
        ]

    def join(self) -> None:
        self.feed(Kind.TRADE_SEED, 10)
        self.feed(Kind.BOOK_SNAPSHOT)
        self.feed(Kind.TICKER, 100, trade_id=10)


def test_each_stream_is_live_when_its_own_first_message_is_there() -> None:
    bench = Bench()
    bench.feed(Kind.TRADE_SEED, 10)
    assert (bench.states("trades"), bench.states("book")) == (["live"], [])
    bench.feed(Kind.BOOK_SNAPSHOT)
    bench.feed(Kind.TICKER, 100, trade_id=10)
    assert bench.states("book") == bench.states("ticker") == ["live"]


def test_the_newest_ticker_and_trade_are_put_beside_the_book() -> None:
    bench = Bench()
    bench.join()
    for number, body in ((11, b"1"), (12, b"2")):
        bench.streams.feed(Event(Kind.TRADE, "BTC-USD", number, NOW), body, NOW)
    bench.streams.feed(Event(Kind.TICKER, "BTC-USD", 120, NOW, 12), b"3", NOW)
    assert bench.replica.pop_evidence() == [b"3", b"2"]
    assert bench.replica.pop_evidence() == []


def test_a_trades_gap_makes_the_book_suspect_and_the_ticker_not() -> None:
    bench = Bench()
    bench.join()
    bench.feed(Kind.TRADE, 12)
    assert bench.wants == [Want.TRADES, Want.BOOK]
    assert bench.states("book")[-1] == "resyncing"
    assert bench.states("ticker") == ["live"]


def test_a_hole_found_on_joining_says_nothing_of_the_snapshot_that_came_with_it() -> None:
    bench = Bench()
    bench.join()
    bench.streams.lost("test", NOW)
    bench.streams.connected(NOW)
    bench.feed(Kind.BOOK_SNAPSHOT, at=1)
    bench.feed(Kind.TRADE_SEED, 15, at=1)
    assert bench.wants == [Want.TRADES]


def test_a_heartbeat_that_was_skipped_proves_that_a_message_was_lost() -> None:
    bench = Bench()
    bench.join()
    bench.feed(Kind.HEARTBEAT, 100, at=SECOND, trade_id=10)
    bench.feed(Kind.HEARTBEAT, 100, at=2 * SECOND, trade_id=10)
    assert bench.wants == []
    bench.feed(Kind.HEARTBEAT, 100, at=4 * SECOND, trade_id=10)
    assert bench.wants == [Want.BOOK]


def test_a_book_that_stands_still_while_the_sequence_moves_is_suspect() -> None:
    bench = Bench()
    bench.join()
    # 20 steps are named in second 3; what they changed may come for 1.5 s more.
    for second in range(1, 5):
        bench.feed(Kind.HEARTBEAT, 100 + 10 * second, at=second * SECOND, trade_id=10)
    assert bench.wants == []
    bench.feed(Kind.HEARTBEAT, 150, at=5 * SECOND, trade_id=10)
    assert bench.wants == [Want.BOOK]
    assert bench.counts.gaps == ["silent"]


def test_a_quiet_book_of_a_quiet_product_is_trusted() -> None:
    bench = Bench()
    bench.join()
    for second in range(1, 30):
        bench.feed(Kind.HEARTBEAT, 100 + min(second, 20), at=second * SECOND, trade_id=10)
    assert bench.wants == []


def test_an_update_just_before_the_suspicion_keeps_the_book() -> None:
    bench = Bench()
    bench.join()
    for second in range(1, 30):
        bench.feed(Kind.HEARTBEAT, 100 + 500 * second, at=second * SECOND, trade_id=10)
        bench.feed(Kind.BOOK_UPDATE, at=second * SECOND + 900_000)
    assert bench.wants == []


def test_a_silent_book_with_a_new_base_is_asked_for_again_later_and_later() -> None:
    bench = Bench()
    bench.join()
    asked: list[int] = []
    for second in range(1, 200):
        bench.feed(Kind.HEARTBEAT, 100 + 10 * second, at=second * SECOND, trade_id=10)
        if bench.wants:
            bench.wants.clear()
            asked.append(second)
            bench.feed(Kind.BOOK_SNAPSHOT, at=second * SECOND + 1)
    # 20 steps, 40, 80, … at ten a second, each from the heartbeat behind its base, and the grace.
    assert asked == [5, 12, 23, 42, 77, 144]


def test_silence_makes_all_streams_stale_and_a_heartbeat_ends_it() -> None:
    """Sockets have stopped without closing (coinbase-pro-node #200, gdax-java #29)."""
    bench = Bench()
    bench.join()
    bench.feed(Kind.HEARTBEAT, 100, at=SECOND, trade_id=10)
    bench.streams.watch(SUSPECT, NOW + 3 * SECOND)
    assert bench.states("trades")[-1] == "live"
    bench.streams.watch(SUSPECT, NOW + 5 * SECOND)
    for channel in bench.logs:
        assert bench.states(channel)[-1] == "stale"
    bench.feed(Kind.HEARTBEAT, 100, at=6 * SECOND, trade_id=10)
    for channel in bench.logs:
        assert bench.states(channel)[-1] in ("live", "resyncing")


def test_a_stream_without_messages_is_quiet_while_heartbeats_go_on() -> None:
    bench = Bench()
    bench.join()
    for second in range(1, 34):
        bench.feed(Kind.HEARTBEAT, 100, at=second * SECOND, trade_id=10)
        bench.streams.watch(SUSPECT, NOW + second * SECOND)
    assert bench.states("trades") == ["live", "quiet"]
    bench.feed(Kind.TRADE, 11, at=34 * SECOND)
    bench.streams.watch(SUSPECT, NOW + 34 * SECOND)
    assert bench.states("trades") == ["live", "quiet", "live"]


def test_a_lost_connection_is_said_once_on_every_stream() -> None:
    bench = Bench()
    bench.join()
    bench.streams.lost("connection lost: reset", NOW)
    bench.streams.lost("connection lost: connect_refused", NOW)
    for channel in bench.logs:
        assert bench.states(channel) == ["live", "down"]


def test_a_first_connection_that_fails_is_said_because_the_log_may_claim_otherwise() -> None:
    bench = Bench()
    bench.streams.lost("connection lost: connect_refused", NOW)
    for channel in bench.logs:
        assert bench.states(channel) == ["down"]


def test_a_snapshot_that_heartbeats_have_overtaken_is_asked_for() -> None:
    bench = Bench()
    for second in range(1, 4):
        bench.feed(Kind.HEARTBEAT, 100, at=second * SECOND, trade_id=10)
        bench.streams.watch(SUSPECT, NOW + second * SECOND)
    assert bench.wants == []
    bench.feed(Kind.HEARTBEAT, 100, at=4 * SECOND, trade_id=10)
    bench.streams.watch(SUSPECT, NOW + 4 * SECOND)
    assert bench.wants == [Want.BOOK]


def test_a_snapshot_that_is_late_with_all_else_is_waited_for() -> None:
    """To subscribe again brings another one, however near the first was: two bases for nothing."""
    bench = Bench()
    for second in range(1, 60):
        bench.streams.watch(600 * SECOND, NOW + second * SECOND)
    bench.feed(Kind.BOOK_SNAPSHOT, at=60 * SECOND)
    for second in range(61, 70):
        bench.feed(Kind.HEARTBEAT, 100, at=second * SECOND, trade_id=10)
        bench.streams.watch(SUSPECT, NOW + second * SECOND)
    assert bench.wants == []
    assert [record.kind for record in bench.logs["book"].of("resync")] == ["resync"]


def test_each_connection_counts_its_own_heartbeats() -> None:
    bench = Bench()
    bench.join()
    for second in range(1, 10):
        bench.feed(Kind.HEARTBEAT, 100, at=second * SECOND, trade_id=10)
    bench.streams.lost("test", NOW + 10 * SECOND)
    bench.streams.connected(NOW + 11 * SECOND)
    for second in range(12, 15):
        bench.feed(Kind.HEARTBEAT, 100, at=second * SECOND, trade_id=10)
        bench.streams.watch(SUSPECT, NOW + second * SECOND)
    assert bench.wants == []


def test_a_status_the_broker_had_no_room_for_is_written_when_there_is_room_again() -> None:
    bench = Bench()
    bench.join()
    for log in bench.logs.values():
        log.away = True
    bench.streams.lost("test", NOW)
    for log in bench.logs.values():
        log.away = False
    bench.streams.connected(NOW)
    bench.streams.watch(SUSPECT, NOW + SECOND)
    assert bench.states("trades") == ["live", "down"]


def test_events_of_channels_that_are_not_served_are_ignored() -> None:
    streams = ProductStreams("BTC-USD", None, None, None, lambda _want: None)
    for kind in Kind:
        streams.feed(Event(kind, "BTC-USD", 1, NOW, 1), b"{}", NOW)
    assert streams.messages == 0


def test_a_book_update_that_cannot_be_read_asks_for_a_new_base_at_once() -> None:
    bench = Bench()
    bench.join()
    bench.feed(Kind.BOOK_UPDATE, at=SECOND)
    damaged = Event(Kind.BOOK_UPDATE, "BTC-USD", 0, NOW + 2 * SECOND)
    bench.streams.unreadable(damaged, "bad_decimal: '0.-10000'", NOW + 2 * SECOND)
    assert bench.wants == [Want.BOOK]
    assert bench.states("book")[-1] == "resyncing"
    # What follows is passed on meanwhile: no reader drops its book for one update.
    bench.feed(Kind.BOOK_UPDATE, at=3 * SECOND)
    bench.feed(Kind.BOOK_SNAPSHOT, at=4 * SECOND)
    kinds = [record.kind for record in bench.logs["book"].of("frame", "resync", "gap")]
    assert kinds == ["resync", "frame", "frame", "resync"]
    assert b'"cause":"invalid_message"' in bytes(bench.logs["book"].of("resync")[-1].body)
    assert bench.states("book")[-1] == "live"
    assert bench.counts.outcomes == ["snapshot"]


def test_a_base_that_cannot_be_read_is_asked_for_again() -> None:
    bench = Bench()
    damaged = Event(Kind.BOOK_SNAPSHOT, "BTC-USD", 0, NOW)
    bench.streams.unreadable(damaged, "bad_field: rows", NOW)
    assert bench.wants == [Want.BOOK]
    assert bench.states("book") == []


def test_a_fetched_book_older_than_what_could_not_be_read_is_not_used() -> None:
    bench = Bench()
    bench.join()
    book = bench.streams.book
    assert isinstance(book, BookStream)
    book.distrust("gap", "trades are missing", NOW)
    book.hold()
    bench.streams.unreadable(Event(Kind.BOOK_UPDATE, "BTC-USD", 0, NOW + 5), "bad", NOW + 5)
    assert not book.image(BookImage(NOW + 4, 0, b"{}"), NOW + 9)
    assert book.image(BookImage(NOW + 5, 0, b"{}"), NOW + 9)


def test_a_trade_that_cannot_be_read_is_fetched_like_one_that_is_missing() -> None:
    bench = Bench()
    bench.join()
    bench.streams.unreadable(Event(Kind.TRADE, "BTC-USD", 11), "bad_decimal", NOW + SECOND)
    assert bench.wants == [Want.TRADES]
    assert bench.streams.trades is not None
    assert bench.streams.trades.missing() == Gap(11, 11)
    bench.feed(Kind.TRADE, 12, at=SECOND)
    bench.streams.trades.refill([TradeRow(11, NOW, b"{}")], NOW + SECOND)
    assert bench.logs["trades"].seqs("frame") == [11, 12]
    # Nothing was lost on the way: the book is not suspect.
    assert bench.wants == [Want.TRADES]


def test_a_number_in_a_message_that_cannot_be_read_proves_nothing() -> None:
    bench = Bench()
    bench.join()
    for number in (0, 5, 10, 12, 10**9):
        bench.streams.unreadable(Event(Kind.TRADE, "BTC-USD", number), "bad_decimal", NOW)
    assert bench.wants == []
    bench.feed(Kind.TRADE, 12, at=SECOND)
    assert bench.streams.trades is not None
    assert bench.streams.trades.missing() == Gap(11, 11)


def test_what_may_have_been_anything_makes_the_book_suspect() -> None:
    bench = Bench()
    bench.join()
    bench.streams.unreadable(Event(Kind.UNKNOWN, ""), "bad_json", NOW)
    assert bench.wants == [Want.BOOK]
    bench = Bench()
    bench.join()
    for kind in (Kind.HEARTBEAT, Kind.TICKER, Kind.REFUSED):
        bench.streams.unreadable(Event(kind, ""), "bad_field", NOW)
    assert bench.wants == []
