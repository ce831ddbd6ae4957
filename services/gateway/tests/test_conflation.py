"""What a client in `latest` mode is sent: when, in place of how much, and in which chain."""

from __future__ import annotations

import gc

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.domain.book import Book
from services.common.stream import Position
from services.common.wire import Fields, Level, decode_tick
from services.gateway.chain.stream_record import StreamRecord
from services.gateway.fanout.conflation import Conflation, merge
from services.gateway.testing import Market


def _tick(market: Market, fields: Fields | None = None) -> StreamRecord:
    return StreamRecord(market.tick(fields).payload)


def test_the_first_message_of_who_holds_nothing_names_no_predecessor() -> None:
    market = Market(None)
    first, second = _tick(market), _tick(market)
    conflation = Conflation(None, None)
    assert (conflation.owing, conflation.drain(0.0)) == (False, None)
    conflation.add(first)
    assert conflation.owing
    taken = conflation.drain(0.0)
    assert taken is not None
    message = msgspec.json.decode(taken[0])
    tick = msgspec.json.decode(first.payload)
    assert message == {"type": "incr", "prev": None, "merged": 1, "tick": tick}
    assert conflation.held == first.position
    conflation.add(second)
    taken = conflation.drain(0.0)
    assert taken is not None
    assert msgspec.json.decode(taken[0])["prev"] == first.position.seq


def test_a_rate_is_an_interval_between_messages_and_none_is_no_interval() -> None:
    market = Market(None)
    conflation = Conflation(None, 4.0)
    assert conflation.due == 0.25
    conflation.add(_tick(market))
    conflation.drain(10.0)
    assert conflation.due == 10.25
    # Another rate counts from the same message, at once.
    conflation.set_rate(2.0)
    assert conflation.due == 10.5
    conflation.set_rate(None)
    assert conflation.due == 10.0
    conflation.add(_tick(market))
    conflation.drain(11.0)
    assert conflation.due == 11.0
    assert Conflation(None, None).due == 0.0


@pytest.mark.parametrize(
    ("groups", "singles"), [([], 0), ([1], 1), ([1, 1, 1], 3), ([1, 2], 0), ([3, 1, 1], 2)]
)
def test_messages_that_stood_for_one_tick_only_are_counted_in_a_row(
    groups: list[int], singles: int
) -> None:
    market = Market(None)
    conflation = Conflation(Position(1, 1), None)
    for group in groups:
        for _ in range(group):
            conflation.add(_tick(market))
        taken = conflation.drain(0.0)
        assert taken is not None
        assert taken[1] == group
    assert conflation.singles == singles


def test_a_long_wait_does_not_hold_every_tick() -> None:
    market = Market(None)
    conflation = Conflation(None, None)

    def entries() -> int:
        gc.collect()
        return sum(isinstance(thing, StreamRecord) for thing in gc.get_objects())

    before = entries()
    for _ in range(500):
        conflation.add(_tick(market))
    assert entries() - before < 100
    taken = conflation.drain(0.0)
    assert taken is not None
    assert taken[1] == 500


def test_levels_are_kept_though_the_newest_tick_changes_none() -> None:
    market = Market(None, channel="book")
    ticks = [
        _tick(market, Fields(changes=[("buy", "1", "1")])),
        _tick(market, Fields(changes=[("sell", "2", "3")])),
        _tick(market, Fields(volume_30d="4")),
    ]
    merged = decode_tick(merge(ticks))
    assert merged.seq == ticks[-1].position.seq
    fields = merged.fields
    assert fields.changes == [("buy", "1", "1"), ("sell", "2", "3")]
    assert fields.volume_30d == "4"


def test_a_tick_that_says_all_itself_is_sent_as_it_was_written() -> None:
    market = Market(None)
    first = _tick(market, Fields(best_bid=Level("1")))
    last = _tick(market, Fields(best_bid=Level("2"), volume_30d="5"))
    assert merge([first]) == first.payload
    assert merge([first, last]) == last.payload


def test_merged_ticks_carry_the_newest_of_every_field() -> None:
    market = Market(None)
    first = _tick(market, Fields(best_bid=Level("1"), volume_30d="5"))
    last = _tick(market, Fields(best_bid=Level("2")))
    merged = decode_tick(merge([first, last]))
    assert (merged.seq, merged.fields.best_bid) == (last.position.seq, Level("2"))
    assert merged.fields.volume_30d == "5"


def test_merged_books_carry_the_newest_size_of_every_level() -> None:
    market = Market(None, channel="book")
    first = _tick(market, Fields(changes=[("buy", "1", "1"), ("sell", "5", "1")]))
    last = _tick(market, Fields(changes=[("buy", "1", "0")]))
    merged = decode_tick(merge([first, last]))
    assert merged.fields.changes == [("sell", "5", "1"), ("buy", "1", "0")]


def test_the_newest_size_of_a_price_written_in_two_ways_comes_last() -> None:
    market = Market(None, channel="book")
    ticks = [
        _tick(market, Fields(changes=[("buy", price, size)]))
        for price, size in (("1e-7", "1"), ("0.0000001", "0"), ("1e-7", "2"))
    ]
    merged = decode_tick(merge(ticks)).fields.changes
    book = Book()
    book.apply(merged or ())
    assert book.bids() == [("1e-7", "2")]


@given(st.lists(st.integers(1, 150), min_size=1, max_size=5))
def test_a_conflated_chain_verifies_and_counts_every_tick(groups: list[int]) -> None:
    market = Market(None)
    market.clock = lambda: 1
    first = StreamRecord(market.tick().payload)
    conflation = Conflation(first.position, max_rate=2)
    held, merged, now = market.seq, 0, 0.0
    for group in groups:
        for _ in range(group):
            conflation.add(StreamRecord(market.tick().payload))
        now = max(now, conflation.due)
        taken = conflation.drain(now)
        assert taken is not None
        message = msgspec.json.decode(taken[0])
        assert message["prev"] == held
        held = message["tick"]["seq"]
        merged += message["merged"]
        assert conflation.due >= now + 0.5
    assert held == market.seq
    assert merged == sum(groups)
