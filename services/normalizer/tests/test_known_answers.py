"""What single raw records come to, by known answers."""

from __future__ import annotations

import json
from functools import partial

from services.common.domain.fold import Fold
from services.common.sharding import shard_of
from services.common.stream import Position
from services.common.subjects import tick_subject
from services.common.testing.raw_records import EPOCH, FIRST_TS, RawStream, raw_message
from services.common.wire import (
    Fields,
    Missed,
    Reset,
    Status,
    Tick,
    decode_record,
)
from services.normalizer.normalize import Normalizer, RepairRequest
from services.normalizer.stand_in import missed_by, too_large
from services.normalizer.tests.test_normalize import (
    BOOK,
    SHARDS,
    TICKER,
    TRADES,
    add_frame,
    add_resync,
    assert_chained,
    decoded,
    run,
    take,
)


class TestKnownAnswers:
    def test_a_trade(self) -> None:
        stream = RawStream(TRADES)
        stream.match(7, price="63514.6")
        (out,) = run(stream.records)
        shard = shard_of("BTC-USD", SHARDS)
        assert out.subject == tick_subject(shard, TRADES)
        assert out.position == Position(EPOCH, 7)
        assert json.loads(out.payload) == {
            "type": "tick",
            "v": 1,
            "venue": "coinbase",
            "channel": "trades",
            "product": "BTC-USD",
            "shard": shard,
            "epoch": EPOCH,
            "seq": 7,
            "prev": None,
            "venue_seq": 1049,
            "ts_event": 1783465097164892,
            "ts_ingest": FIRST_TS,
            "fields": {
                "last_trade": {
                    "price": "63514.6",
                    "size": "0.50000000",
                    "side": "buy",
                    "trade_id": 7,
                    "time": 1783465097164892,
                }
            },
        }

    def test_a_gap_and_a_snapshot_become_resets(self) -> None:
        stream = RawStream(BOOK)
        stream.snapshot(100, [["10", "1"]], [["11", "2"]])
        stream.changes(200, [("buy", "10", "3")])
        stream.gap(250)
        stream.snapshot(300, [["9", "1"]], [["12", "2"]], cause="reconnect")
        first, update, gap, again = decoded(run(stream.records))
        assert (first.cause, first.repair, first.prev) == ("start", "snapshot", None)
        assert update.prev == 100
        # No state stands in it, so readers keep theirs: the next base says what is missing.
        assert isinstance(gap, Tick)
        assert (gap.prev, gap.seq, gap.fields) == (200, 250, Fields(changes=[]))
        assert (again.cause, again.prev) == ("reconnect", 250)
        assert json.loads(bytes(again.state)) == {"bids": [["9", "1"]], "asks": [["12", "2"]]}

    def test_a_book_of_orders_begins_an_epoch_of_its_own_and_counts_the_venues_sequence(
        self,
    ) -> None:
        stream = RawStream(BOOK)
        stream.changes(1_783_465_100_000_000, [("buy", "10", "1")])
        stream.epoch += 1
        stream.seq = 0
        message = {"bids": [["10", "3"]], "asks": [["11", "1"]]}
        body = {"cause": "start", "repair": "snapshot", "message": message}
        stream.add("resync", 1000, body, prev=None)
        stream.order(1001, "received", [])
        stream.order(1002, "open", [("buy", "10", "4.5")])
        _, reset, received, opened = decoded(run(stream.records))
        assert (reset.epoch, reset.seq, reset.prev) == (EPOCH + 1, 1000, None)
        assert json.loads(bytes(reset.state)) == message
        assert (received.prev, received.venue_seq, received.fields.changes) == (1000, 1001, [])
        assert (opened.prev, opened.venue_seq) == (1001, 1002)
        assert opened.fields.changes == [("buy", "10", "4.5")]

    def test_a_status_keeps_the_seq_and_does_not_move_the_chain(self) -> None:
        stream = RawStream(TRADES)
        for act in (stream.status, partial(stream.match, 5), stream.status, stream.status):
            act()
        stream.match(6)
        records = decoded(run(stream.records))
        assert [(r.seq, getattr(r, "sub", 0)) for r in records] == [
            (0, 1),
            (5, 0),
            (5, 1),
            (5, 2),
            (6, 0),
        ]
        assert [r.prev for r in records if isinstance(r, Tick)] == [None, 5]

    def test_late_trades_stand_at_their_own_places_and_do_not_move_the_chain(self) -> None:
        stream = RawStream(TRADES)
        stream.match(5)
        stream.gap(9)
        stream.match(10)
        stream.late(6, 9, [6, 7], open=[{"from": 8, "to": 9}])
        stream.status()
        stream.late(6, 9, [9], lost=[{"from": 8, "to": 8}], reason="denied")
        stream.match(11)
        outs = run(stream.records)
        first, _gap, tenth, some, status, rest, eleventh = decoded(outs)
        assert [out.position for out in outs[3:6]] == [(EPOCH, 10, sub) for sub in (1, 2, 3)]
        assert (some.missed, some.open, some.lost) == (Missed(6, 9, 4), [Missed(8, 9)], [])
        assert [(t.seq, t.prev, t.epoch) for t in some.ticks] == [(6, 5, EPOCH), (7, 6, EPOCH)]
        assert some.ticks[0].fields.last_trade.trade_id == 6
        assert some.ticks[0].fields.last_trade.side == "buy"
        assert (rest.open, rest.lost, rest.reason) == ([], [Missed(8, 8)], "denied")
        assert [(t.seq, t.prev) for t in rest.ticks] == [(9, 8)]
        assert (first.prev, tenth.prev, eleventh.prev, eleventh.prev_sub) == (None, 9, 10, 3)
        assert isinstance(status, Status)

    def test_a_late_trade_that_cannot_be_read_costs_itself_only(self) -> None:
        stream = RawStream(TRADES)
        stream.match(5)
        stream.late(1, 2, [1, 2])
        message = raw_message(stream.records[-1])
        broken = message.payload.replace(b'"price":"100.00"', b'"price":"?"', 1)
        normalizer = Normalizer(SHARDS)
        run(stream.records[:1], normalizer)
        raw = normalizer.read(message.subject, message.position, broken)
        output = normalizer.normalize(TRADES, raw)
        (late,) = decoded(output.records)
        assert [tick.seq for tick in late.ticks] == [2]
        assert [error.code for error in output.refused] == ["bad_decimal"]

    def test_lost_raw_records_become_a_reset_that_counts_them(self) -> None:
        stream = RawStream(TRADES)
        for trade_id in range(1, 8):
            stream.match(trade_id)
        records = decoded(run([*stream.records[:2], *stream.records[5:]]))
        assert [r.seq for r in records] == [1, 2, 5, 6, 7]
        lost = records[2]
        assert (lost.cause, lost.repair, lost.prev) == ("raw_log_break", "snapshot", 2)
        assert json.loads(bytes(lost.state)) == {"trades": []}
        assert (lost.missed.from_, lost.missed.to, lost.missed.count) == (3, 5, 3)
        assert lost.ts_ingest == stream.records[5].ts_recv

    def test_trades_without_a_baseline_are_joined_only_where_their_ids_prove_it(self) -> None:
        stream = RawStream(TRADES)
        stream.match(1)
        stream.seq = 0
        stream.match(2)
        stream.seq = 0
        stream.match(9)
        records = decoded(run(stream.records))
        assert [(type(r), r.seq, r.prev) for r in records] == [
            (Tick, 1, None),
            (Tick, 2, 1),
            (Reset, 8, 2),
            (Tick, 9, 8),
        ]

    def test_a_ticker_without_a_baseline_is_joined_and_a_books_update_is_not(self) -> None:
        for key, seqs in ((TICKER, [10, 20]), (BOOK, [10, 19, 20])):
            stream = RawStream(key)
            add_frame(stream, 10)
            stream.seq = 0
            add_frame(stream, 20)
            records = decoded(run(stream.records))
            assert [record.seq for record in records] == seqs
            if key is BOOK:
                assert records[1].fields == Fields(changes=[])
            assert_chained(records)

    def test_what_is_not_understood_is_a_reset_at_its_own_place(self) -> None:
        stream = RawStream(TRADES)
        stream.match(1)
        stream.match(2, side="none")
        stream.match(3)
        one, reset, three = decoded(run(stream.records))
        assert (one.seq, reset.seq, three.seq) == (1, 2, 3)
        assert (reset.cause, reset.repair, reset.missed.count) == ("invalid_message", "snapshot", 1)
        assert json.loads(bytes(reset.state)) == {"trades": []}
        assert three.prev == 2

    def test_another_line_may_repeat_and_skip_without_harm(self) -> None:
        one, two = RawStream(TICKER), RawStream(TICKER, line="line-2")
        for sequence in (10, 20, 30):
            one.ticker(sequence)
        for sequence in (10, 30, 40):
            two.ticker(sequence)
        records = decoded(run([*one.records[:2], *two.records, *one.records[2:]]))
        assert [(r.seq, r.prev) for r in records] == [(10, None), (20, 10), (30, 20), (40, 30)]

    def test_a_new_epoch_begins_a_new_chain(self) -> None:
        stream = RawStream(TRADES)
        stream.match(900)
        stream.epoch += 1
        stream.match(1)
        stream.match(2)
        records = decoded(run(stream.records))
        assert [(r.epoch - EPOCH, r.seq, r.prev) for r in records] == [
            (0, 900, None),
            (1, 1, None),
            (1, 2, 1),
        ]

    def test_a_predecessor_that_cannot_be_one_is_none(self) -> None:
        stream = RawStream(TRADES)
        stream.seq = 900
        stream.match(1)
        stream.seq = 900
        stream.match(3)
        records = decoded(run(stream.records))
        assert [(type(r), r.seq, r.prev) for r in records] == [
            (Tick, 1, None),
            (Reset, 2, 1),
            (Tick, 3, 2),
        ]

    def test_a_record_of_an_older_epoch_is_a_duplicate(self) -> None:
        stream = RawStream(TRADES)
        stream.match(1)
        stream.epoch += 1
        stream.match(2)
        assert run(reversed(stream.records)) == run(stream.records[1:])

    def test_a_record_too_large_for_the_log_has_something_stand_in_its_place(self) -> None:
        for key in (BOOK, TICKER, TRADES):
            stream = RawStream(key)
            add_resync(stream, 1) if key is BOOK else add_frame(stream, 1)
            add_frame(stream, 2)
            for out in run(stream.records):
                before, after = decode_record(out.payload), decode_record(too_large(out.payload))
                assert isinstance(before, Tick | Reset)
                assert isinstance(after, Tick | Reset)
                assert (after.epoch, after.seq) == (before.epoch, before.seq)
                assert (after.prev or 0) == (before.prev or 0)
                if isinstance(after, Reset):
                    assert key is TRADES
                    assert (after.cause, after.repair) == ("record_too_large", "snapshot")
                    assert (
                        missed_by(after)
                        == missed_by(before)
                        == Missed(out.position.seq, out.position.seq, 1)
                    )
                else:
                    assert after.fields == (Fields(changes=[]) if key is BOOK else Fields())

    def test_a_book_update_that_is_not_understood_costs_no_reader_its_book(self) -> None:
        stream = RawStream(BOOK)
        stream.snapshot(1, [["10", "1"]], [["11", "2"]])
        stream.changes(2, [("buy", "9", "0.-10000")])
        stream.changes(3, [("buy", "8", "1")])
        normalizer = Normalizer(SHARDS)
        outputs = [take(normalizer, raw) for raw in stream.records]
        assert [output.asks for output in outputs] == [
            (),
            (RepairRequest("invalid_message", Missed(2, 2)),),
            (),
        ]
        fold = Fold(BOOK)
        for record in decoded([out for output in outputs for out in output.records]):
            assert fold.apply(record)
        assert fold.book.bids() == [("10", "1"), ("8", "1")]

    def test_a_first_base_that_is_not_understood_is_no_empty_book(self) -> None:
        stream = RawStream(BOOK)
        stream.add("resync", 5, {"cause": "start", "repair": "snapshot", "message": {"bids": 1}})
        add_frame(stream, 6)
        output = take(Normalizer(SHARDS), stream.records[0])
        assert output.asks == (RepairRequest("invalid_message", Missed(5, 5)),)
        first, second = decoded(run(stream.records))
        # Null would say that this is where the book begins.
        assert (first.prev, second.prev) == (0, 5)

    def test_records_that_the_raw_log_lost_are_asked_for(self) -> None:
        stream = RawStream(BOOK)
        stream.snapshot(1, [["10", "1"]], [["11", "2"]])
        for seq in range(2, 6):
            add_frame(stream, seq)
        normalizer = Normalizer(SHARDS)
        take(normalizer, stream.records[0])
        output = take(normalizer, stream.records[-1])
        assert output.asks == (RepairRequest("raw_log_break", Missed(2, 4)),)
        stand_in, tick = decoded(output.records)
        assert (stand_in.seq, stand_in.prev, stand_in.fields) == (4, 1, Fields(changes=[]))
        assert (tick.seq, tick.prev) == (5, 4)
