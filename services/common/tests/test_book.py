from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.domain.book import BadLevel, Book

# Few different prices, each written in several ways, so that levels meet.
PRICES = st.tuples(st.integers(1, 12), st.sampled_from(["", ".0", ".00", ".5", ".50"])).map(
    lambda parts: f"{parts[0]}{parts[1]}"
)
SIZES = st.sampled_from(["0", "0.00000000", "1", "1.50", "2"])
SIDES = st.sampled_from(["buy", "sell"])
CHANGES = st.lists(st.tuples(SIDES, PRICES, SIZES), max_size=12)
ROWS = st.lists(st.tuples(PRICES, SIZES), max_size=12)


class Model:
    """The same rules in the plainest form."""

    def __init__(self) -> None:
        self.sides: dict[str, dict[Decimal, tuple[str, str]]] = {"buy": {}, "sell": {}}

    def apply(self, side: str, price: str, size: str) -> None:
        if Decimal(size):
            self.sides[side][Decimal(price)] = (price, size)
        else:
            self.sides[side].pop(Decimal(price), None)

    @property
    def bids(self) -> list[tuple[str, str]]:
        return [level for _, level in sorted(self.sides["buy"].items(), reverse=True)]

    @property
    def asks(self) -> list[tuple[str, str]]:
        return [level for _, level in sorted(self.sides["sell"].items())]


@given(ROWS, ROWS, st.lists(CHANGES, max_size=5))
def test_a_book_holds_what_the_plain_rules_give_best_first(
    bids: list[tuple[str, str]],
    asks: list[tuple[str, str]],
    batches: list[list[tuple[str, str, str]]],
) -> None:
    book, model = Book(), Model()
    book.apply([("buy", "99", "1"), ("sell", "99", "1")])
    book.replace(bids, asks)
    for side, rows in (("buy", bids), ("sell", asks)):
        for price, size in rows:
            model.apply(side, price, size)
    for changes in batches:
        book.apply(changes)
        for change in changes:
            model.apply(*change)
    assert (book.bids(), book.asks()) == (model.bids, model.asks)
    assert (book.bids(2), book.asks(2)) == (model.bids[:2], model.asks[:2])
    assert len(book) == len(model.bids) + len(model.asks)
    crossed = bool(model.bids and model.asks) and (
        Decimal(model.bids[0][0]) >= Decimal(model.asks[0][0])
    )
    assert book.crossed is crossed


@given(CHANGES, CHANGES)
def test_applying_changes_again_changes_nothing(
    before: list[tuple[str, str, str]], changes: list[tuple[str, str, str]]
) -> None:
    once, twice = Book(), Book()
    for book in (once, twice):
        book.apply(before)
        book.apply(changes)
    twice.apply(changes)
    assert once == twice
    assert once.bids() == twice.bids()


def test_one_price_written_in_two_ways_is_one_level_with_the_newest_text() -> None:
    book = Book()
    book.apply([("buy", "9289.70", "1.0")])
    book.apply([("buy", "9289.7", "2")])
    assert book.bids() == [("9289.7", "2")]
    book.apply([("buy", "9289.700", "0.00000000")])
    assert len(book) == 0


def test_an_exponent_is_a_number_and_stays_the_venues_text() -> None:
    book = Book()
    book.replace([["0.00000008", "8000"], ["5.1e-7", "150000"], ["5e-7", "1e4"]], [["6e-7", "1"]])
    assert book.bids() == [("5.1e-7", "150000"), ("5e-7", "1e4"), ("0.00000008", "8000")]
    assert not book.crossed
    book.apply([("buy", "0.00000051", "0e-8"), ("sell", "4.9E-7", "1")])
    assert (book.bids(1), book.asks(1)) == ([("5e-7", "1e4")], [("4.9E-7", "1")])
    assert book.crossed


def test_prices_of_more_digits_than_a_context_keeps_are_different_levels() -> None:
    book = Book()
    book.apply([("buy", "1." + "1" * 39, "1"), ("buy", "1." + "1" * 38, "2")])
    assert len(book) == 2


def test_books_are_equal_by_value() -> None:
    one, two = Book(), Book()
    one.replace([["10.0", "1"]], [["11", "2.50"]])
    two.replace([["10", "1.00"]], [["11.00", "2.5"]])
    assert one == two
    two.apply([("buy", "10", "2")])
    assert one != two
    assert one != "a book"


def test_what_a_venue_adds_behind_price_and_size_is_read_over() -> None:
    book = Book()
    book.replace([["10", "1", 7]], [["11", "2", "an order"]])  # type: ignore[list-item]  # as REST
    assert (book.bids(), book.asks()) == ([("10", "1")], [("11", "2")])


BAD: list[tuple[Any, ...]] = [
    ("buy", "", "1"),
    ("buy", "x", "1"),
    ("buy", "NaN", "1"),
    ("buy", "sNaN", "1"),
    ("buy", "Infinity", "1"),
    ("buy", "1", "-1"),
    ("buy", "1", "0.-10000"),
    ("buy", "1e999999", "1"),
    ("buy", "1", "1e999999"),
    ("buy", "1_000", "1"),
    ("buy", " 1", "1"),
    ("buy", "1 2", "1"),
    ("buy", None, "1"),
    ("bid", "1", "1"),
    ("buy", "1"),
    (),
]


@pytest.mark.parametrize("bad", BAD)
def test_a_malformed_change_leaves_the_book_as_it_was(bad: tuple[Any, ...]) -> None:
    book, same = Book(), Book()
    for each in (book, same):
        each.replace([["10", "1"]], [["11", "2"]])
    with pytest.raises(BadLevel):
        book.apply([("buy", "10", "0"), bad, ("sell", "11", "0")])
    assert book == same
    if bad[0:1] == ("buy",):
        with pytest.raises(BadLevel):
            book.replace([["9", "1"], bad[1:]], [])
        with pytest.raises(BadLevel):
            book.replace([], [bad[1:]])
        assert book == same


def _book(bids: list[tuple[str, str]], asks: list[tuple[str, str]]) -> Book:
    book = Book()
    book.replace(bids, asks)
    return book


def test_a_level_is_found_on_its_own_side_by_value() -> None:
    book = _book([("9.0", "1"), ("8", "2")], [("10", "3"), ("11", "4")])
    assert book.size_at("buy", Decimal(9)) == "1"
    assert book.size_at("buy", Decimal("8.00")) == "2"
    assert book.size_at("sell", Decimal(10)) == "3"
    assert book.size_at("sell", Decimal(11)) == "4"
    for side, price in (("buy", 10), ("buy", 7), ("sell", 9), ("sell", 12)):
        assert book.size_at(side, Decimal(price)) is None


def test_levels_better_than_a_price_are_told_best_first_and_no_more_than_asked_for() -> None:
    book = _book([("9", "1"), ("8", "1"), ("7", "1")], [("10", "1"), ("11", "1"), ("12", "1")])
    assert book.better_than("buy", Decimal(7), 5) == [9, 8]
    assert book.better_than("buy", Decimal("6.5"), 2) == [9, 8]
    assert book.better_than("buy", Decimal(9), 5) == []
    assert book.better_than("sell", Decimal(12), 5) == [10, 11]
    assert book.better_than("sell", Decimal(13), 2) == [10, 11]
    assert book.better_than("sell", Decimal(10), 5) == []


@pytest.mark.parametrize(
    ("bids", "asks", "crossed"),
    [
        ([], [], False),
        (["9"], [], False),
        ([], ["9"], False),
        (["9", "8"], ["9.1", "10"], False),
        (["9", "8"], ["9.0", "10"], True),
        (["9", "8"], ["8.5", "10"], True),
    ],
)
def test_a_book_is_crossed_when_the_best_bid_reaches_the_best_ask(
    bids: list[str], asks: list[str], *, crossed: bool
) -> None:
    book = _book([(price, "1") for price in bids], [(price, "1") for price in asks])
    assert book.crossed is crossed
    assert len(book) == len(bids) + len(asks)


def test_what_is_no_level_is_named_in_the_error() -> None:
    book = Book()

    def refused(side: str, price: str, size: str) -> str:
        error = BadLevel(side, price, size)
        assert (error.side, error.price, error.size) == (side, price, size)
        return f"^{re.escape(str(error))}$"

    assert str(BadLevel("buy", "x", "1")) == "not a level: side 'buy', price 'x', size '1'"
    for change in (("hold", "1", "2"), ("buy", "x", "1"), ("sell", "1", "y")):
        with pytest.raises(BadLevel, match=refused(*change)):
            book.apply([("buy", "1", "1"), change])
    with pytest.raises(BadLevel, match=refused("", "9", "")):
        book.replace([["9"]], [])
    with pytest.raises(BadLevel, match=refused("", "", "")):
        book.replace([], [[]])
