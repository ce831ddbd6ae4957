"""Trades at the edges: what is counted, said and given up."""

from __future__ import annotations

import json

import msgspec

from services.common.domain.fold import TRADES_KEPT
from services.common.wire import GapBody, LateBody, Missed
from services.ingestor.integrity.sequencer import Gap
from services.ingestor.testing.streams import NOW, row
from services.ingestor.testing.streams import TradesBench as Bench


def connected(held: int | None = None) -> Bench:
    """One whose stream is live, so that what ails it is its state."""
    bench = Bench(held)
    bench.stream.state.clear("down", "joined", NOW)
    return bench


def statuses(bench: Bench) -> list[tuple[str, str]]:
    found = []
    for record in bench.log.of("status"):
        body = json.loads(bytes(record.body))
        found.append((body["state"], body["evidence"]))
    return found


def test_a_trade_that_makes_no_sense_is_fetched_where_it_is_the_next_in_turn() -> None:
    for number, asked in ((10, 0), (11, 1), (12, 0), (0, 0)):
        bench = Bench(held=10)
        bench.stream.unreadable(number, NOW + 1)
        assert (number, bench.asked) == (number, asked)
        assert bench.stream.missing() == (Gap(11, 11) if asked else None)
    assert bench.counts.gaps == []
    bench = connected(held=10)
    bench.stream.unreadable(11, NOW + 1)
    assert bench.counts.gaps == ["invalid_message"]
    assert statuses(bench)[-1] == ("resyncing", "trades 11..11 missing (invalid_message)")
    # While others are missing, the next in turn is that behind the last that is known to exist.
    for number, last in ((11, 11), (13, 11), (12, 12)):
        bench.stream.unreadable(number, NOW + 2)
        assert bench.stream.missing() == Gap(11, last)
    fresh = Bench()
    fresh.stream.unreadable(1, NOW)
    assert (fresh.asked, fresh.stream.missing()) == (0, None)


def test_what_readers_went_without_is_asked_for_afterwards_where_it_was_passed_on() -> None:
    for first, last, open_ in (
        (1, 10, 10),
        (10, 10, 1),
        (0, 3, 0),
        (9, 8, 0),
        (9, 11, 0),
    ):
        bench = Bench(held=10)
        bench.stream.reopen(Missed(first, last, 1), NOW)
        assert (first, last, bench.stream.extra()["open"]) == (first, last, open_)
    bench = Bench()
    bench.stream.reopen(Missed(1, 2, 2), NOW)
    assert bench.stream.open.gaps == ()


def test_what_happened_is_counted_by_name() -> None:
    bench = Bench(held=10)
    bench.trade(13)
    assert bench.stream.extra() == {"held": 1, "refilled": 0, "opened": 0, "lost": 0, "open": 0}
    bench.refill(11, 12)
    bench.trade(16)
    bench.stream.give_up(NOW)
    bench.trade(18)
    bench.stream.give_up(NOW, denied=True)
    assert bench.stream.extra() == {"held": 0, "refilled": 2, "opened": 2, "lost": 1, "open": 2}
    assert bench.counts.outcomes == ["refilled", "open", "lost"]


def test_it_is_gone_on_without_what_is_missing_as_far_as_is_said() -> None:
    bench = Bench(held=10)
    bench.trade(15)
    for upto, missing in ((10, Gap(11, 14)), (11, Gap(12, 14)), (13, Gap(14, 14))):
        bench.stream.give_up(NOW, upto=upto)
        assert bench.stream.missing() == missing
    bench.stream.give_up(NOW, upto=14)
    assert bench.stream.missing() is None
    assert bench.frames == [15]
    assert [(gap.missed.from_, gap.missed.to) for gap in bench.stream.open.gaps] == [
        (11, 11),
        (12, 13),
        (14, 14),
    ]


def test_a_new_numbering_ends_what_was_missing_and_that_is_said() -> None:
    bench = connected(held=1_000)
    bench.trade(1_003)
    assert statuses(bench)[-1] == ("resyncing", "trades 1001..1002 missing (gap)")
    bench.trade(10, 11, 12, late_us=5_000_000)
    assert statuses(bench)[-1] == ("live", "the venue's trade ids began anew")
    assert bench.counts.gaps[-1] == "renumbered"
    assert bench.counts.outcomes[-1] == "renumbered"
    assert not bench.stream.healing
    assert bench.frames == [12]
    gap = bench.log.of("gap")[-1]
    body = msgspec.json.decode(gap.body, type=GapBody)
    assert (gap.seq, body.cause, body.missed) == (11, "renumbered", Missed(0, 11))
    # What is older than this in the new numbering is no newer one.
    bench.trade(5, 6, 7, late_us=5_000_000)
    assert bench.frames == [12]


def test_the_first_mark_of_any_kind_is_where_a_stream_begins() -> None:
    bench = Bench()
    bench.stream.heartbeat(0, NOW)
    bench.stream.heartbeat(-1, NOW)
    bench.trade(7)
    assert (bench.frames, bench.asked) == ([7], 0)
    bench = Bench()
    bench.stream.heartbeat(1, NOW)
    bench.trade(3)
    assert bench.stream.missing() == Gap(2, 2)
    bench = Bench()
    bench.stream.seed(1_000, NOW, NOW)
    bench.trade(10, 11, 12, late_us=500_000)
    assert bench.frames == []
    bench.trade(10, 11, 12, late_us=5_000_000)
    assert bench.frames == [12]


def test_the_end_of_a_hole_says_what_became_of_it() -> None:
    bench = connected(held=10)
    bench.trade(13)
    bench.stream.refill([row(11)], NOW)
    bench.stream.trade(12, NOW, b"{}", NOW + 7_000)
    assert statuses(bench)[-1] == (
        "live",
        "trades from 11 (gap): 1 refilled, 1 late, 0 lost, 0 still asked for, 7 ms",
    )


def test_a_subscription_that_begins_in_a_new_numbering_goes_on_in_it() -> None:
    def begun() -> Bench:
        bench = Bench(held=1_000)
        for number in (10, 11, 12):
            bench.stream.seed(number, NOW + 5_000_000, NOW)
        assert bench.log.seqs("gap") == [12]
        return bench

    bench = begun()
    bench.trade(13, late_us=5_000_000)
    assert (bench.frames, bench.asked) == ([13], 0)
    # The time it began at is the one to be newer than, should it begin anew again.
    bench = begun()
    bench.trade(5, 6, 7, late_us=20_000_000)
    assert bench.frames == [7]


def test_what_was_asked_for_still_is_given_up_by_a_new_numbering() -> None:
    bench = Bench(held=10)
    bench.trade(13)
    bench.stream.give_up(NOW)
    assert bench.stream.open.count == 2
    for number in (1, 2, 3):
        bench.stream.trade(number, NOW + 5_000_000, b"{}", NOW + 7)
    assert bench.stream.open.count == 0
    (late,) = bench.log.of("late")
    body = msgspec.json.decode(late.body, type=LateBody)
    assert (late.ts_recv, body.lost, body.reason) == (NOW + 7, [Missed(11, 12)], "renumbered")


def test_every_trade_is_counted_and_what_the_broker_had_no_room_for_is_named() -> None:
    bench = Bench()
    bench.trade(7, 8, 8)
    assert bench.stream.messages == 3
    for held, first in ((None, 7), (6, 7)):
        bench = connected(held)
        bench.log.away = True
        bench.trade(7)
        assert bench.stream.state.evidence == f"trades {first}..7 missing (broker_away)"


def test_the_state_behind_a_gap_is_the_newest_trades_before_it() -> None:
    bench = Bench(held=10)
    bench.trade(*range(11, 11 + TRADES_KEPT + 5))
    last = 10 + TRADES_KEPT + 5
    bench.trade(last + 2)
    bench.stream.give_up(NOW)
    body = msgspec.json.decode(bench.log.of("gap")[-1].body, type=GapBody)
    assert body.message is not None
    kept = [trade["trade_id"] for trade in msgspec.json.decode(body.message)]
    assert kept == list(range(last - TRADES_KEPT + 1, last + 1))


def test_a_trade_of_an_open_gap_that_comes_live_is_late_and_no_repetition() -> None:
    bench = Bench(held=10)
    bench.trade(13)
    bench.stream.give_up(NOW)
    bench.trade(11, 11)
    (late,) = bench.log.of("late")
    body = msgspec.json.decode(late.body, type=LateBody)
    assert [msgspec.json.decode(each)["trade_id"] for each in body.messages] == [11]
    assert late.ts_recv == NOW
    assert bench.stream.duplicates == 1


def test_a_number_is_old_only_by_the_time_of_the_newest_trade() -> None:
    for order in ((11, 12), (12, 11)):
        bench = Bench(held=10)
        for number in order:
            bench.trade(number, late_us=10_000_000 if number == 12 else 0)
        bench.trade(5, 6, 7, late_us=10_500_000)
        assert (bench.frames, bench.stream.duplicates) == ([11, 12], 3)


def test_what_came_late_and_what_was_refilled_are_told_apart() -> None:
    bench = connected(held=10)
    bench.trade(14, 11, 12, 13)
    assert "0 refilled, 3 late" in statuses(bench)[-1][1]
    bench.trade(18)
    assert (bench.refill(15), bench.refill(16, 17)) == (1, 2)
    assert "3 refilled, 0 late" in statuses(bench)[-1][1]
    assert bench.stream.refilled == 3


def test_rows_that_nobody_asked_for_are_let_go() -> None:
    bench = Bench(held=10)
    assert bench.refill(11, 12) == 0
    assert (bench.frames, bench.stream.held) == ([], 0)
    fresh = Bench()
    assert fresh.refill(11) == 0


def test_a_tail_that_nothing_follows_is_given_up_to_its_end() -> None:
    bench = Bench(held=10)
    for _ in range(2):
        bench.stream.heartbeat(13, NOW)
    bench.stream.give_up(NOW)
    assert bench.stream.open.left == [(11, 13)]
    assert not bench.stream.healing


def test_several_holes_of_one_resync_are_counted_together_and_end_together() -> None:
    for denied, words in ((False, ", 0 lost, 4 still asked for"), (True, ", 4 lost, 0 still")):
        bench = connected(held=10)
        bench.trade(13, 16)
        bench.stream.give_up(NOW, denied=denied)
        assert words in statuses(bench)[-1][1]
        assert (bench.stream.opened, bench.stream.lost) == ((0, 4) if denied else (4, 0))
        assert bench.counts.outcomes == ["lost" if denied else "open"] * 2


def test_the_same_end_told_again_is_asked_for_once() -> None:
    bench = Bench(held=10)
    for _ in range(2):
        bench.stream.heartbeat(13, NOW)
    bench.stream.seed(13, NOW, NOW)
    assert bench.asked == 1
    bench.stream.seed(14, NOW, NOW)
    assert bench.asked == 2


def test_ids_may_begin_with_nothing_and_begin_anew_with_the_first() -> None:
    bench = connected(held=0)
    bench.trade(3)
    assert statuses(bench)[-1] == ("resyncing", "trades 1..2 missing (gap)")
    bench = Bench(held=1_000)
    bench.trade(1, 1, 1, late_us=5_000_000)
    body = msgspec.json.decode(bench.log.of("gap")[-1].body, type=GapBody)
    assert (body.cause, body.missed, bench.frames) == ("renumbered", Missed(0, 0), [1])
