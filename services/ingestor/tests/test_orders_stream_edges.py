"""The order-level stream at its edges: what is told of a loss, and which image is taken."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import msgspec
import pytest

from services.common.wire import ResyncBody
from services.ingestor.streams import orders
from services.ingestor.testing.streams import statuses
from services.ingestor.tests.test_orders_stream import NOW, Bench
from services.ingestor.venues.base import OrderAction, OrderEvent, OrderImage

SECOND = 1_000_000


def based(at: int = 1005) -> Bench:
    bench = Bench()
    bench.say(at)
    assert bench.image(at)
    return bench


def whole(bench: Bench) -> ResyncBody:
    return msgspec.json.decode(bench.log.of("resync")[-1].body, type=ResyncBody)


def test_the_first_image_makes_it_live_and_is_the_venues_state_at_its_number() -> None:
    bench = Bench()
    bench.say(1005)
    image = replace(bench.market.image(1005), text="2026-01-01T00:00:00Z")
    assert bench.stream.image(image, NOW + 7)
    assert statuses(bench.log) == [("live", "all resting orders received", 7)]
    state = msgspec.json.decode(whole(bench).message)
    assert (state["sequence"], state["time"]) == (1005, "2026-01-01T00:00:00Z")
    assert whole(bench).cause == "start"
    bench = based()
    assert msgspec.json.decode(whole(bench).message)["time"] is None


def test_a_gap_is_told_with_its_numbers_and_ends_with_an_image() -> None:
    bench = based()
    bench.say(1008, 1009)
    assert bench.image(1008)
    assert statuses(bench.log)[1:] == [
        ("resyncing", "orders' messages 1006..1007 missing (gap)", 1008 * 1000),
        ("live", "snapshot: at 1009", 0),
    ]
    assert bench.counts.gaps == ["gap"]
    (frame,) = bench.log.of("frame")
    assert (frame.seq, bytes(frame.body), frame.ts_recv) == (1009, b'{"n":1009}', NOW + 1009 * 1000)


def test_the_message_that_finds_a_gap_is_passed_on_as_it_came() -> None:
    bench = based()
    bench.say(1009, 1007, 1008, 1006)
    assert [
        (frame.seq, bytes(frame.body), frame.ts_recv - NOW) for frame in bench.log.of("frame")
    ] == [(number, b'{"n":%d}' % number, number * 1000) for number in (1006, 1007, 1009)]


def test_a_lost_tail_is_told_as_one() -> None:
    bench = based()
    for at in (1, 2):
        bench.stream.heartbeat(0, 1007, NOW + at)
    assert statuses(bench.log)[1:] == [
        ("resyncing", "orders' messages 1006..1007 missing (tail)", 2)
    ]
    assert bench.counts.gaps == ["tail"]


def test_a_hole_in_what_waited_begins_the_next_resync() -> None:
    bench = Bench()
    bench.say(1005, 1006, 1009, 1010)
    assert bench.stream.image(bench.market.image(1004), NOW + 3)
    assert statuses(bench.log) == [
        ("live", "all resting orders received", 3),
        ("resyncing", "orders' messages 1007..1008 missing (gap)", 3),
    ]
    assert bench.counts.gaps == ["gap"]
    assert bench.asked == 2
    bench.say(1008, 1007)
    assert bench.counts.outcomes == ["late"]
    bench.check(1010)


def test_a_numbering_that_begins_anew_is_told_and_needs_an_image() -> None:
    bench = based(1020)
    for number in (1, 2, 3):
        event = OrderEvent(number, NOW + 3600 * SECOND, OrderAction.NONE)
        bench.stream.order(event, b"{}", NOW + number)
    assert statuses(bench.log)[1:] == [("resyncing", "the venue's sequence began anew", 3)]
    assert bench.counts.gaps == ["renumbered"]
    assert bench.log.records[-1].epoch == NOW + 3
    assert bench.stream.image(OrderImage(3, NOW + 3600 * SECOND, "", [], []), NOW + 4)
    assert whole(bench).cause == "renumbered"


def test_numbers_are_old_news_while_their_times_are() -> None:
    bench = based(1020)
    bench.say(1010, 1011, 1012, 1013)
    assert (bench.stream.duplicates, bench.stream.messages) == (4, 5)
    assert bench.counts.gaps == []


def test_after_a_reconnect_a_late_message_completes_nothing() -> None:
    bench = based()
    bench.say(1008)
    bench.stream.lost(NOW)
    bench.stream.connected()
    bench.say(1006)
    assert bench.stream.suspect
    assert bench.log.of("frame") == []
    assert bench.image(1006)
    assert (bench.counts.outcomes, bench.stream.resyncs) == (["snapshot"], 2)


def test_a_connection_that_is_lost_is_why_the_next_base_is_needed_and_since_then() -> None:
    bench = based()
    bench.stream.lost(NOW + 5)
    bench.stream.connected()
    bench.say(1006)
    assert bench.image(1006)
    assert bench.counts.outcomes == ["snapshot"]
    assert whole(bench).cause == "reconnect"


@pytest.mark.parametrize("say", [(1008,), ()])
def test_nothing_follows_a_lost_log_but_a_base(say: tuple[int, ...]) -> None:
    bench = based()
    bench.say(*say)
    bench.stream.unbase("log_lost", "the log was lost", NOW + 4)
    if not say:
        assert statuses(bench.log)[-1] == ("resyncing", "the log was lost", 4)
    assert bench.counts.gaps[-1] == "log_lost"
    bench.say(1006)
    assert bench.stream.suspect
    assert bench.image(1008)
    assert whole(bench).cause == "log_lost"


def test_whoever_doubts_the_book_gets_an_image_whatever_comes_next() -> None:
    bench = based()
    bench.stream.distrust("operator", "asked for", NOW)
    bench.say(1006)
    assert bench.stream.suspect
    assert bench.image(1006)
    assert len(bench.log.of("resync")) == 2


def test_an_image_may_be_so_far_ahead_of_what_was_heard() -> None:
    for beyond, taken in ((0, True), (1, False)):
        bench = Bench()
        bench.say(1005)
        image = OrderImage(1005 + 10_000 + beyond, NOW, "", [], [])
        assert bench.stream.image(image, NOW) is taken
        assert bench.stream.suspect is not taken


def test_a_numbering_may_begin_with_nothing() -> None:
    bench = Bench()
    bench.stream.order(OrderEvent(1, NOW, OrderAction.NONE), b"{}", NOW)
    assert bench.stream.image(OrderImage(0, NOW, "", [], []), NOW)
    assert (bench.stream.sequence, bench.stream.held, bench.stream.suspect) == (1, 0, False)


def test_what_comes_twice_while_something_is_missing_is_counted_and_waits_once() -> None:
    bench = based()
    bench.say(1008, 1008, 1008, 1005, 1004)
    assert (bench.stream.duplicates, bench.stream.held) == (4, 1)
    # Before there is a base nobody knows what is old.
    bench = Bench()
    bench.say(1005, 1004)
    assert (bench.stream.duplicates, bench.stream.held) == (0, 2)


def test_so_many_may_wait_and_one_more_lets_them_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orders, "_MAX_WAITING", 100)
    bench = based()
    for number in range(1007, 1107):
        bench.stream.order(OrderEvent(number, NOW, OrderAction.NONE), b"{}", NOW)
    assert (bench.stream.held, bench.counts.drops) == (100, {})
    bench.stream.order(OrderEvent(1107, NOW, OrderAction.NONE), b"{}", NOW)
    assert (bench.stream.held, bench.counts.drops) == (1, {"queue_full": 100})
    bench.say(1006)
    assert bench.stream.suspect, "what followed it is gone"
    assert bench.log.of("frame") == []


def test_what_there_is_no_room_for_is_dated_and_a_later_image_is_taken() -> None:
    bench = based()
    bench.log.away = True
    bench.say(1006)
    assert (bench.stream.state.since, bench.counts.drops) == (
        NOW + 1006 * 1000,
        {"broker_away": 1},
    )
    assert bench.stream.image(bench.market.image(1006), NOW + 5 * SECOND)
    assert (bench.stream.suspect, bench.stream.resyncs) == (True, 1)
    bench.log.away = False
    assert bench.image(1007)
    assert (bench.stream.suspect, bench.stream.resyncs) == (False, 2)
    assert whole(bench).cause == "broker_away"
    bench.stream.distrust("operator", "asked for", NOW)
    bench.log.away = True
    assert bench.stream.image(bench.market.image(1007), NOW + 9 * SECOND)
    assert bench.counts.gaps[-1] == "broker_away"
    bench.log.away = False
    assert bench.image(1007)
    assert bench.counts.outcomes == ["snapshot", "snapshot"]


def test_an_image_with_a_lower_number_is_taken_only_when_it_is_clearly_newer() -> None:
    for seconds, taken in ((1, False), (2, True)):
        bench = based()
        event = OrderEvent(1006, NOW + 60 * SECOND, OrderAction.OPEN, "x", "buy", "5", Decimal(1))
        bench.stream.order(event, b"{}", NOW)
        bench.stream.distrust("operator", "asked for", NOW)
        image = OrderImage(4, NOW + (60 + seconds) * SECOND, "", [], [])
        assert bench.stream.image(image, NOW) is taken


def test_what_it_tells_of_itself() -> None:
    bench = based()
    assert bench.stream.extra() == {"held": 0, "based": True, "resyncs": 1, "orders": 1}
    bench.say(1008)
    assert bench.stream.extra() == {"held": 1, "based": False, "resyncs": 1, "orders": 1}
