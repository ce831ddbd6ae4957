"""What a replica contradicts, and what it keeps silent about."""

from __future__ import annotations

from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingestor.integrity.book_replica import BookReplica

Rows = list[tuple[str, str]]


def whole(bids: Rows, asks: Rows) -> bytes:
    return msgspec.json.encode({"bids": [(*row, 2) for row in bids], "asks": asks})


def update(*changes: tuple[str, str, str]) -> bytes:
    return msgspec.json.encode({"changes": changes})


def replica_of(bids: Rows, asks: Rows) -> BookReplica:
    replica = BookReplica()
    replica.base(whole(bids, asks))
    replica.fold(replica.pop_updates())
    replica.watch()
    return replica


def test_the_same_book_is_not_contradicted_however_its_numbers_are_written() -> None:
    """Pitfall 28: "9289.70" on the WebSocket is "9289.7" over REST."""
    replica = replica_of([("9289.70", "0.00000040")], [("9300.00", "1")])
    assert replica.contradicted(whole([("9289.7", "0.0000004")], [("9300", "1.0")])) == {}


def test_a_level_that_was_left_alone_and_differs_is_contradicted() -> None:
    replica = replica_of([("10", "1"), ("9", "2"), ("7", "1")], [("11", "1")])
    image = whole([("10", "1"), ("9", "3"), ("8", "5"), ("7", "1")], [("11", "1")])
    assert replica.contradicted(image) == {
        ("buy", Decimal(9)): ("2", "3"),
        ("buy", Decimal(8)): ("0", "5"),
    }


def test_nothing_is_said_about_a_level_that_changed_meanwhile() -> None:
    replica = replica_of([("10", "1"), ("9", "2")], [])
    replica.update(update(("buy", "9.0", "7")))
    replica.fold(replica.pop_updates())
    assert replica.contradicted(whole([("10", "1"), ("9", "3")], [])) == {}


def test_levels_beyond_the_images_worst_price_are_not_judged() -> None:
    """Older venues answer with the best 50 levels only."""
    replica = replica_of([("10", "1"), ("9", "2")], [("11", "1"), ("12", "1")])
    assert replica.contradicted(whole([("10", "1")], [("11", "1")])) == {}
    assert replica.contradicted(whole([], [])) == {}


def test_a_crossed_book_is_seen_once_it_is_folded() -> None:
    replica = replica_of([("10", "1")], [("11", "1")])
    assert not replica.crossed
    replica.update(update(("buy", "11", "1")))
    replica.fold(replica.pop_updates())
    assert replica.crossed


def test_pitfall_13_a_size_that_makes_no_sense_ends_the_replica_until_the_next_base() -> None:
    replica = replica_of([("10", "1")], [])
    replica.update(update(("buy", "9", "0.-10000")))
    replica.fold(replica.pop_updates())
    assert not replica.usable
    assert not replica.crossed
    replica.base(whole([("10", "1")], []))
    replica.fold(replica.pop_updates())
    assert replica.usable


def test_what_nobody_folds_is_let_go_before_it_fills_the_memory() -> None:
    replica = replica_of([("10", "1")], [])
    before = replica.bases
    for _ in range(20_001):
        replica.update(b"{}")
    assert not replica.usable
    assert replica.pop_updates() == []
    assert replica.bases != before


PRICES = st.integers(1, 8).map(str)
SIZES = st.integers(0, 3).map(str)
CHANGES = st.tuples(st.sampled_from(["buy", "sell"]), PRICES, SIZES)


@given(st.lists(CHANGES, max_size=30), st.lists(CHANGES, max_size=30), st.data())
def test_only_a_lost_change_is_ever_contradicted(
    before: list[tuple[str, str, str]], after: list[tuple[str, str, str]], data: st.DataObject
) -> None:
    """`after` happens while the audit runs; the image is taken at any point of it."""
    lost = data.draw(st.none() | st.integers(0, max(0, len(before) - 1)))
    truth: dict[tuple[str, str], str] = {}
    for side, price, size in before:
        truth[side, price] = size
    replica = replica_of([], [])
    for number, change in enumerate(before):
        if number != lost:
            replica.update(update(change))
    replica.fold(replica.pop_updates())
    replica.watch()
    taken = data.draw(st.integers(0, len(after)))
    for side, price, size in after[:taken]:
        truth[side, price] = size
    image = whole(
        [(price, size) for (side, price), size in truth.items() if side == "buy" and size != "0"],
        [(price, size) for (side, price), size in truth.items() if side == "sell" and size != "0"],
    )
    for change in after:
        replica.update(update(change))
    replica.fold(replica.pop_updates())
    found = replica.contradicted(image)
    if lost is None or not before:
        assert found == {}
    else:
        side, price, _ = before[lost]
        assert set(found) <= {(side, Decimal(price))}


def test_numbers_with_an_exponent_are_compared_by_value() -> None:
    replica = replica_of([("5.1e-7", "150000")], [("6e-7", "1")])
    replica.update(update(("sell", "6e-7", "2"), ("sell", "0.0000006", "0"), ("sell", "6e-7", "3")))
    replica.fold(replica.pop_updates())
    replica.watch()
    assert replica.contradicted(whole([("0.00000051", "1.5e5")], [("6.0e-7", "3")])) == {}
    found = replica.contradicted(whole([("0.00000051", "1")], [("6.0e-7", "3")]))
    assert found == {("buy", Decimal("5.1e-7")): ("150000", "1")}


def test_a_row_that_makes_no_sense_costs_that_row_only_and_the_replica_goes_on() -> None:
    bad: Rows = [("10", "1"), ("9", "0.-10000"), ("8", "1")]
    replica = replica_of(bad, [("11", "1")])
    assert replica.usable
    assert not replica.lost
    replica.watch()
    assert replica.contradicted(whole([("10", "1"), ("9", "NaN"), ("8", "1")], [("11", "1")])) == {}
    replica.base(b'{"bids":null,"asks":[["11","1"],["12"],null,["13",2]]}')
    replica.fold(replica.pop_updates())
    assert replica.usable
    assert replica.contradicted(b'{"bids":[],"asks":[["11","1"]]}') == {}
    # A number that nobody can hold is in a row, too.
    replica.base(b'{"bids":[],"asks":[["11","1"],["12",1e400],1e400]}')
    replica.fold(replica.pop_updates())
    assert replica.usable
    assert replica.contradicted(b'{"bids":[],"asks":[["11","1"],["13",1e400]]}') == {}


def test_an_update_that_makes_no_sense_ends_the_replica_until_the_next_base_and_is_told() -> None:
    replica = BookReplica()
    assert not replica.lost
    replica = replica_of([("10", "1")], [])
    replica.update(update(("buy", "9", "0.-10000")))
    replica.fold(replica.pop_updates())
    assert (replica.usable, replica.lost) == (False, True)
    replica.base(whole([("10", "1")], []))
    assert (replica.usable, replica.lost) == (True, False)


def test_something_else_than_a_book_is_said_to_be_so() -> None:
    with pytest.raises(msgspec.DecodeError):
        replica_of([], []).contradicted(b"<html>")


def ticker(bid: str, ask: str) -> bytes:
    body = {"best_bid": bid, "best_bid_size": "1", "best_ask": ask, "best_ask_size": "1"}
    return msgspec.json.encode({"type": "ticker", **body})


def test_before_the_first_base_there_is_nothing() -> None:
    replica = BookReplica()
    assert (replica.usable, replica.lost, replica.bases) == (False, False, 0)
    assert (replica.pop_updates(), replica.pop_evidence()) == ([], [])
    replica.update(update(("buy", "10", "1")))
    assert replica.pop_updates() == []


def test_every_base_and_every_loss_is_counted() -> None:
    replica = BookReplica()
    for counted in (1, 2):
        replica.base(whole([], []))
        assert replica.bases == counted
    for counted in (3, 4):
        replica.drop()
        assert replica.bases == counted
    assert (replica.usable, replica.lost) == (False, True)


def test_the_newest_ticker_and_trade_are_handed_out_once() -> None:
    replica = BookReplica()
    replica.ticker, replica.trade = b"ticker", b"trade"
    assert replica.pop_evidence() == [b"ticker", b"trade"]
    assert (replica.ticker, replica.trade) == (b"", b"")
    replica.trade = b"trade"
    assert replica.pop_evidence() == [b"trade"]


def test_a_ticker_contradicts_the_book_as_long_as_there_is_one() -> None:
    """The levels have to be left alone for a window before and one after."""
    right, wrong = [ticker("10", "12")], [ticker("9", "12")]
    for told, dropped, found in (
        (right, False, None),
        (wrong, False, "buy 10 stands before 9"),
        (wrong, True, None),
    ):
        replica = replica_of([("10", "1"), ("9", "1")], [("12", "1")])
        assert [replica.judge([]), replica.judge([]), replica.judge(told)] == [None] * 3
        if dropped:
            replica.drop()
        assert replica.judge([]) == found


def test_levels_that_changed_in_any_batch_are_left_alone_until_nobody_watches() -> None:
    replica = replica_of([("10", "1"), ("9", "2")], [])
    for price in ("10", "9"):
        replica.update(update(("buy", price, "5")))
        replica.fold(replica.pop_updates())
    image = whole([("10", "1"), ("9", "2")], [])
    assert replica.contradicted(image) == {}
    replica.unwatch()
    replica.update(update(("buy", "10", "6")))
    replica.fold(replica.pop_updates())
    assert len(replica.contradicted(image)) == 2
    replica.watch()
    assert len(replica.contradicted(image)) == 2, "what changed before says nothing of now"


def test_both_sides_are_judged_up_to_their_own_worst_price() -> None:
    replica = replica_of([("10", "1"), ("8", "1")], [("12", "1"), ("14", "1")])
    assert replica.contradicted(whole([("10", "2")], [("12", "3")])) == {
        ("buy", Decimal(10)): ("1", "2"),
        ("sell", Decimal(12)): ("1", "3"),
    }
    # An empty side says nothing, and the other one still does.
    assert replica.contradicted(whole([], [("12", "3")])) == {("sell", Decimal(12)): ("1", "3")}
    # The worst price itself is judged, and a level that is only here.
    assert replica.contradicted(whole([("10", "1"), ("7", "1")], [("11", "1"), ("13", "1")])) == {
        ("buy", Decimal(8)): ("1", "0"),
        ("buy", Decimal(7)): ("0", "1"),
        ("sell", Decimal(11)): ("0", "1"),
        ("sell", Decimal(12)): ("1", "0"),
        ("sell", Decimal(13)): ("0", "1"),
    }
