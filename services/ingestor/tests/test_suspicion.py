"""What tickers and trades say of a book's top: a lost update shows, a late one never does."""

from __future__ import annotations

import random
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.domain.book import Book
from services.ingestor.integrity.book_replica import BookReplica
from services.ingestor.integrity.suspicion import Told, TopCheck, told_by

Change = tuple[str, str, str]


def encoded(value: Any) -> bytes:
    return msgspec.json.encode(value)


def ticker(book: Book, **more: str) -> bytes:
    bids, asks = book.bids(1), book.asks(1)
    body = {"type": "ticker"} | more
    if bids:
        body |= {"best_bid": bids[0][0], "best_bid_size": bids[0][1]}
    if asks:
        body |= {"best_ask": asks[0][0], "best_ask_size": asks[0][1]}
    return encoded(body)


class Bench:
    """A replica of `bids` 10, 9, 8 and `asks` 11, 12, 13, two windows after its base."""

    def __init__(self) -> None:
        self.replica = BookReplica()
        bids = [("10", "1"), ("9", "1"), ("8", "1")]
        asks = [("11", "1"), ("12", "1"), ("13", "1")]
        self.replica.base(encoded({"bids": bids, "asks": asks}))
        assert self.window() is None
        assert self.window() is None

    def window(self, *changes: Change) -> str | None:
        if changes:
            self.replica.update(encoded({"changes": changes}))
        self.replica.fold(self.replica.pop_updates())
        return self.replica.judge(self.replica.pop_evidence())

    def tells(self, body: dict[str, str]) -> str | None:
        """What is found when this is told, and nothing happens then."""
        self.replica.ticker = encoded({"type": "ticker"} | body)
        assert self.window() is None, "the window in which it is told is not over"
        return self.window()


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ({"best_bid": "10", "best_bid_size": "1", "best_ask": "11", "best_ask_size": "1.0"}, None),
        ({"best_ask": "12"}, "sell 11 stands before 12"),
        ({"best_bid": "9"}, "buy 10 stands before 9"),
        ({"best_ask": "10.5"}, "sell 10.5 is the best, and is missing"),
        ({"best_bid": "10", "best_bid_size": "3"}, "buy 10 is 1, and 3 is told"),
        ({"price": "13", "side": "buy"}, "sell 11 stands before 13"),
        ({"price": "8.5", "side": "sell"}, "buy 10 stands before 8.5"),
        ({"price": "11", "side": "buy"}, None),
        ({"best_bid": "", "best_ask": "0", "price": "x"}, None),
    ],
)
def test_what_a_ticker_contradicts(body: dict[str, str], found: str | None) -> None:
    assert Bench().tells(body) == found


def test_a_match_names_the_makers_side() -> None:
    buyer = told_by(encoded({"type": "match", "side": "sell", "price": "12"}))
    assert [(told.side, told.through) for told in buyer] == [("buy", None), ("sell", Decimal(12))]


@pytest.mark.parametrize("window", [0, 1, 2])
def test_nothing_is_said_of_a_level_that_changed_around_the_time_it_was_told(window: int) -> None:
    bench = Bench()
    changes = [("sell", "11", "2")]
    bench.window(*changes if window == 0 else [])
    bench.replica.ticker = encoded({"type": "ticker", "best_ask": "12"})
    bench.window(*changes if window == 1 else [])
    assert bench.window(*changes if window == 2 else []) is None


def test_what_was_told_before_a_new_base_is_not_about_it() -> None:
    bench = Bench()
    bench.replica.ticker = encoded({"type": "ticker", "best_ask": "12"})
    bench.window()
    bench.replica.base(encoded({"bids": [], "asks": [("11", "1")]}))
    bench.replica.ticker = encoded({"type": "ticker", "best_ask": "12"})
    assert bench.window() is None
    assert bench.window() is None


CHANGES = st.tuples(st.sampled_from(["buy", "sell"]), st.integers(1, 9), st.integers(0, 3).map(str))


@given(
    windows=st.lists(st.lists(CHANGES, max_size=6), min_size=4, max_size=14),
    seed=st.integers(0, 2**32),
)
def test_channels_that_overtake_each_other_by_less_than_a_window_are_never_an_alarm(
    windows: list[list[tuple[str, int, str]]], seed: int
) -> None:
    rng = random.Random(seed)
    truth, replica = Book(), BookReplica()
    replica.base(encoded({"bids": [], "asks": []}))
    # Of each window: what was made in it and has not arrived yet.
    updates: list[list[Change]] = []
    late_ticker: bytes | None = None
    for window in windows:
        made: list[Change] = []
        # What is still on its way from the window before arrives in this one.
        arriving = [change for batch in updates for change in batch]
        updates = [made]
        if late_ticker is not None:
            replica.ticker = late_ticker
            late_ticker = None
        told_at = rng.randrange(len(window) + 1)
        for at, (side, offset, size) in enumerate([*window, ("", 0, "")]):
            if at == told_at:
                body = ticker(truth)
                if rng.random() < 0.5:
                    late_ticker = body
                else:
                    replica.ticker = body
            if side:
                price = str(10 + offset if side == "sell" else 10 - offset)
                truth.apply([(side, price, size)])
                made.append((side, price, size))
        on_time = rng.randrange(len(made) + 1)
        arriving += made[:on_time]
        del made[:on_time]
        for change in arriving:
            replica.update(encoded({"changes": [change]}))
        replica.fold(replica.pop_updates())
        assert replica.judge(replica.pop_evidence()) is None


@given(st.integers(1, 3), st.sampled_from(["buy", "sell"]), st.booleans())
def test_a_lost_change_of_the_top_is_found_with_the_next_ticker(
    quiet: int, side: str, removed: bool
) -> None:
    bench = Bench()
    truth = Book()
    truth.replace([("10", "1"), ("9", "1")], [("11", "1"), ("12", "1")])
    best = "10" if side == "buy" else "11"
    truth.apply([(side, best, "0" if removed else "7")])
    for _ in range(quiet):
        assert bench.window() is None
    bench.replica.ticker = ticker(truth)
    assert bench.window() is None
    assert bench.window() is not None


# ---------------------------------------------------------------------- the check alone


def _book(levels: int = 1) -> Book:
    """Asks at 11, 12, 13, ..."""
    book = Book()
    book.replace([], [(str(11 + number), "1") for number in range(levels)])
    return book


def _through(price: int) -> Told:
    """A trade went through all asks that are better."""
    return Told("sell", None, None, Decimal(price))


STANDS = "sell 11 stands before 12"


def test_the_first_window_counts_though_there_was_no_base_before() -> None:
    check, book = TopCheck(), _book()
    assert check.judge(book, [_through(12)]) is None
    assert check.judge(book, []) == STANDS


def test_a_change_before_the_first_window_is_over_is_one_in_it() -> None:
    check, book = TopCheck(), _book()
    check.touch({("sell", Decimal(11))})
    assert check.judge(book, [_through(12)]) is None
    assert check.judge(book, []) is None


def test_all_changes_of_a_window_are_remembered() -> None:
    check, book = TopCheck(), _book()
    check.judge(book, [_through(12)])
    check.touch({("sell", Decimal(11))})
    check.touch({("sell", Decimal(13))})
    assert check.judge(book, []) is None


def test_a_level_is_judged_again_once_nothing_happened_to_it_for_a_window_before() -> None:
    def told_after(windows: int) -> str | None:
        check, book = TopCheck(), _book()
        check.touch({("sell", Decimal(11))})
        for _ in range(windows):
            check.judge(book, [])
        check.judge(book, [_through(12)])
        return check.judge(book, [])

    assert [told_after(windows) for windows in (0, 1, 2)] == [None, None, STANDS]


def test_so_many_levels_beyond_the_best_are_looked_at() -> None:
    def changed_before(levels: int) -> str | None:
        check, book = TopCheck(), _book(100)
        check.judge(book, [_through(200)])
        check.touch({("sell", Decimal(11 + number)) for number in range(levels)})
        return check.judge(book, [])

    assert changed_before(49) == "sell 60 stands before 200"
    assert changed_before(50) is None
