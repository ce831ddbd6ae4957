"""The order-level stream: what was lost is found by number, and healed late or from level 3."""

from __future__ import annotations

import json
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.domain.book import Book
from services.common.subjects import StreamKey
from services.common.wire import StatusBody
from services.ingestor.integrity.order_book import OrderBook
from services.ingestor.integrity.sequencer import ORDERS_RULE, Sequencer
from services.ingestor.streams import OrdersStream
from services.ingestor.streams.raw_writer import RawStreamWriter
from services.ingestor.streams.stream import StreamStateTracker
from services.ingestor.testing import Counts, RawLog, folded
from services.ingestor.venues.base import OrderAction, OrderEvent, OrderImage
from services.ingestor.venues.coinbase import CoinbaseFeed

KEY = StreamKey("coinbase", "book", "BTC-USD")
NOW = 1_790_000_000_000_000
FIRST = 1000


class Market:
    """Message n opens order n; every third cancels the one two before; every fourth is silent."""

    def __init__(self, length: int = 40) -> None:
        self.events: list[OrderEvent] = []
        for number in range(FIRST, FIRST + length):
            time = NOW + number * 1000
            if number % 4 == 0:
                self.events.append(OrderEvent(number, time, OrderAction.NONE))
            elif number % 3 == 0:
                self.events.append(OrderEvent(number, time, OrderAction.DONE, f"o{number - 2}"))
            else:
                price, side = str(10 + number % 5), "sell" if number % 2 else "buy"
                self.events.append(
                    OrderEvent(
                        number, time, OrderAction.OPEN, f"o{number}", side, price, Decimal(1)
                    )
                )

    def at(self, number: int) -> OrderEvent:
        return self.events[number - FIRST]

    def image(self, sequence: int) -> OrderImage:
        rows: dict[str, list[tuple[str, str, str]]] = {"buy": [], "sell": []}
        resting: dict[str, OrderEvent] = {}
        for event in self.events:
            if event.sequence > sequence:
                break
            if event.action is OrderAction.OPEN:
                resting[event.order_id] = event
            elif event.action is OrderAction.DONE:
                resting.pop(event.order_id, None)
        for event in resting.values():
            rows[event.side].append((event.price, str(event.size), event.order_id))
        return OrderImage(sequence, NOW + sequence * 1000, "", rows["buy"], rows["sell"])

    def book(self, sequence: int) -> Book:
        orders, book = OrderBook(), Book()
        image = self.image(sequence)
        orders.load(image.bids, image.asks)
        book.replace(*orders.levels())
        return book


def as_full(event: OrderEvent) -> bytes:
    """The event as the venue's `full` channel tells it."""
    kind = "received" if event.action is OrderAction.NONE else event.action.value
    order = {"price": event.price, "side": event.side, "remaining_size": str(event.size)}
    message = {"type": kind, "product_id": KEY.product, "sequence": event.sequence}
    return json.dumps(message | {"order_id": event.order_id} | order).encode()


def as_level3(event: OrderEvent) -> bytes:
    """The event as a row of `level3`."""
    cells = {
        OrderAction.NONE: ("noop",),
        OrderAction.OPEN: ("open", event.order_id, event.side, event.price, str(event.size)),
        OrderAction.DONE: ("done", event.order_id),
    }
    kind, *rest = cells[event.action]
    return json.dumps([kind, KEY.product, str(event.sequence), *rest, "not said"]).encode()


FORMS = {"full": as_full, "level3": as_level3}
in_both_forms = pytest.mark.parametrize("form", FORMS)


class Bench:
    """With a `form`, events reach the stream through the venue's own message and its parser."""

    def __init__(self, held: int | None = None, form: str | None = None) -> None:
        self._written = FORMS[form] if form is not None else None
        self._feed = CoinbaseFeed(orders=True)
        self.log = RawLog()
        self.counts = Counts()
        self.market = Market()
        self.asked = 0
        writer = RawStreamWriter(KEY, "test", self.log.offer, epoch=1, seq=held)
        self.stream = OrdersStream(
            writer, StreamStateTracker(writer, NOW), Sequencer(ORDERS_RULE), self._ask, self.counts
        )

    def _ask(self) -> None:
        self.asked += 1

    def say(self, *numbers: int) -> None:
        for number in numbers:
            event, body = self.market.at(number), b'{"n":%d}' % number
            if self._written is not None:
                body = self._written(event)
                parsed = self._feed.parse(body).order
                assert parsed is not None
                event = parsed
            self.stream.order(event, body, NOW + number * 1000)

    def image(self, sequence: int) -> bool:
        return self.stream.image(self.market.image(sequence), NOW)

    def written(self) -> list[tuple[str, int]]:
        return [(record.kind, record.seq) for record in self.log.of("frame", "resync", "gap")]

    def states(self) -> list[str]:
        return [
            msgspec.json.decode(record.body, type=StatusBody).state
            for record in self.log.of("status")
        ]

    def check(self, sequence: int) -> None:
        self.log.check_chain()
        assert folded(self.log.records) == self.market.book(sequence)


def test_it_begins_with_an_image_and_replays_what_waited_above_it() -> None:
    bench = Bench()
    bench.say(1005, 1006, 1007)
    assert bench.asked == 1
    assert bench.image(1006)
    assert not bench.stream.suspect
    # 1006 is in the image; 1007 opened an order.
    assert bench.written() == [("resync", 1006), ("frame", 1007)]
    bench.say(1008, 1009)
    assert bench.written()[2:] == [("frame", 1009)], "what touches no level is not written"
    bench.check(1009)


def test_pitfall_6_an_image_ahead_of_the_socket_makes_what_follows_up_to_it_old_news() -> None:
    bench = Bench()
    bench.say(1005)
    assert bench.image(1020)
    bench.say(1006, 1013, 1020)
    assert bench.stream.duplicates == 3
    bench.say(1021, 1022)
    bench.check(1022)
    assert bench.counts.gaps == []


def test_an_image_behind_the_first_message_that_waits_is_asked_for_again() -> None:
    bench = Bench()
    bench.say(1010)
    assert not bench.image(1008)
    assert bench.stream.suspect
    assert bench.image(1009)
    bench.check(1010)


@in_both_forms
def test_pitfall_3_a_lost_message_is_found_and_the_book_rebuilt_from_level_3(form: str) -> None:
    bench = Bench(form=form)
    bench.say(1005)
    bench.image(1005)
    bench.say(1006, 1007, 1010, 1011)
    assert bench.states() == ["live", "resyncing"]
    assert "1008..1009" in bench.stream.state.evidence
    assert bench.image(1010)
    assert bench.states() == ["live", "resyncing", "live"]
    assert b'"cause":"gap"' in bytes(bench.log.of("resync")[1].body)
    bench.check(1011)
    assert bench.counts.outcomes == ["snapshot"]


def test_messages_that_only_came_late_complete_the_book_without_a_call() -> None:
    bench = Bench()
    bench.say(1005)
    bench.image(1005)
    bench.say(1008, 1007, 1006)
    assert not bench.stream.suspect
    assert bench.counts.outcomes == ["late"]
    assert len(bench.log.of("resync")) == 1
    bench.check(1008)


def test_two_heartbeats_find_a_lost_tail() -> None:
    bench = Bench()
    bench.say(1005)
    bench.image(1005)
    bench.stream.heartbeat(0, 1007, NOW)
    assert bench.states() == ["live"]
    bench.stream.heartbeat(0, 1009, NOW)
    assert bench.states() == ["live", "resyncing"]
    bench.image(1009)
    bench.check(1009)


def test_a_reconnect_needs_a_new_image_and_one_is_not_taken_while_the_connection_is_down() -> None:
    bench = Bench()
    bench.say(1005)
    bench.image(1005)
    bench.stream.lost(NOW)
    assert not bench.stream.fetchable
    assert bench.image(1007)
    assert bench.stream.suspect
    bench.stream.connected()
    bench.stream.heartbeat(0, 1008, NOW)
    assert bench.asked == 2
    assert bench.image(1008)
    bench.say(1009)
    bench.check(1009)
    assert b'"cause":"reconnect"' in bytes(bench.log.of("resync")[1].body)


def test_in_a_market_that_stands_still_a_new_base_stands_behind_the_old_one() -> None:
    bench = Bench()
    bench.say(1005)
    bench.image(1005)
    bench.stream.distrust("operator", "asked for", NOW)
    assert bench.image(1005)
    assert bench.written() == [("resync", 1005), ("resync", 1006)]
    bench.say(1006, 1007, 1008, 1009, 1010)
    bench.check(1010)


def test_pitfall_25_an_image_of_a_cache_older_than_what_was_passed_on_is_refused() -> None:
    bench = Bench()
    bench.say(1005)
    bench.image(1010)
    bench.stream.distrust("operator", "asked for", NOW)
    assert not bench.image(1009)
    assert bench.image(1010)


def test_a_numbering_that_began_anew_opens_an_epoch() -> None:
    bench = Bench()
    bench.say(1020)
    bench.image(1020)
    bench.stream.distrust("operator", "asked for", NOW)
    image = bench.market.image(1004)
    image = OrderImage(4, NOW + 10_000_000, "", image.bids, image.asks)
    assert bench.stream.image(image, NOW)
    assert [record.epoch for record in bench.log.of("resync")] == [1, NOW]
    bench.log.check_chain()


def test_what_the_broker_had_no_room_for_makes_a_new_base_necessary() -> None:
    bench = Bench()
    bench.say(1005)
    bench.image(1005)
    bench.log.away = True
    bench.say(1006, 1007)
    assert bench.stream.suspect
    bench.log.away = False
    bench.say(1008)
    assert bench.image(1008)
    bench.check(1008)


@in_both_forms
@given(data=st.data())
def test_whatever_is_lost_repeated_or_reordered_the_log_folds_to_the_true_book(
    form: str, data: st.DataObject
) -> None:
    bench = Bench(form=form)
    bench.say(FIRST)
    bench.image(FIRST)
    last = bench.market.events[-1].sequence
    numbers = data.draw(
        st.lists(st.integers(FIRST + 1, last), max_size=60).map(
            lambda extra: sorted(extra, key=lambda n: n + hash((n, len(extra))) % 4)
        )
    )
    for number in numbers:
        bench.say(number)
        if bench.stream.fetchable and data.draw(st.booleans()):
            bench.image(data.draw(st.integers(number, last)))
    bench.stream.heartbeat(0, last, NOW)
    bench.stream.heartbeat(0, last, NOW)
    if bench.stream.fetchable:
        assert bench.image(last)
    assert not bench.stream.suspect
    bench.check(last)
