"""Orders folded to levels, by hand and against a naive model."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from services.common.domain.book import Book
from services.ingestor.integrity.order_book import OrderBook
from services.ingestor.venues.base import OrderAction, OrderEvent
from services.ingestor.venues.coinbase import CoinbaseFeed

OPEN, DONE, MATCH, CHANGE = (
    OrderAction.OPEN,
    OrderAction.DONE,
    OrderAction.MATCH,
    OrderAction.CHANGE,
)


def event(
    action: OrderAction, order_id: str, size: str = "0", price: str = "", side: str = ""
) -> OrderEvent:
    return OrderEvent(1, 1, action, order_id, side, price, Decimal(size))


def test_a_level_is_the_sum_of_its_orders_and_goes_with_the_last_one() -> None:
    book = OrderBook()
    assert book.apply(event(OPEN, "a", "1.50", "10.0", "buy")) == [("buy", "10.0", "1.5")]
    # The same price written in another way is the same level.
    assert book.apply(event(OPEN, "b", "2", "10.00", "buy")) == [("buy", "10.0", "3.5")]
    assert book.apply(event(MATCH, "a", "0.5")) == [("buy", "10.0", "3")]
    assert book.apply(event(DONE, "a")) == [("buy", "10.0", "2")]
    assert book.apply(event(DONE, "b")) == [("buy", "10.0", "0")]
    assert book.levels() == ([], [])


def test_pitfall_7_messages_about_orders_that_never_rested_change_nothing() -> None:
    book = OrderBook()
    book.load([("10", "1", "a")], [("11", "2", "b")])
    for action in (DONE, MATCH, CHANGE):
        assert book.apply(event(action, "never opened", "1", "10.5")) == []
    assert book.levels() == ([("10", "1")], [("11", "2")])


def test_an_order_filled_by_a_match_is_gone_before_its_done_comes() -> None:
    book = OrderBook()
    book.load([("10", "1", "a")], [])
    assert book.apply(event(MATCH, "a", "1")) == [("buy", "10", "0")]
    assert book.apply(event(DONE, "a")) == []


def test_an_order_can_be_resized_and_moved() -> None:
    book = OrderBook()
    book.load([("10", "5", "a"), ("9", "1", "b")], [])
    assert book.apply(event(CHANGE, "a", "3")) == [("buy", "10", "3")]
    assert book.apply(event(CHANGE, "a", "3", "10")) == []
    assert book.apply(event(CHANGE, "a", "4", "9.0")) == [
        ("buy", "10", "0"),
        ("buy", "9", "5"),
    ]
    assert book.apply(event(CHANGE, "b", "0")) == [("buy", "9", "4")]


IDS = st.sampled_from("abcdef")
PRICES = st.sampled_from(["9", "9.5", "10", "10.25"])
SIZES = st.decimals(0, 5, places=3).map(str)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just(OPEN), IDS, SIZES, PRICES, st.sampled_from(["buy", "sell"])),
            st.tuples(st.just(DONE), IDS, SIZES, PRICES, st.just("")),
            st.tuples(st.just(MATCH), IDS, SIZES, st.just(""), st.just("")),
            st.tuples(st.just(CHANGE), IDS, SIZES, st.sampled_from(["", "9", "10"]), st.just("")),
        ),
        max_size=60,
    )
)
def test_the_changes_told_make_the_same_book_as_the_orders(
    steps: list[tuple[OrderAction, str, str, str, str]],
) -> None:
    orders, levels = OrderBook(), Book()
    naive: dict[str, tuple[str, Decimal, Decimal]] = {}
    for action, order_id, size, price, side in steps:
        levels.apply(orders.apply(event(action, order_id, size, price, side)))
        held = naive.get(order_id)
        amount = Decimal(size)
        if action is OPEN:
            naive[order_id] = (side, Decimal(price), amount)
        elif held is not None:
            where = Decimal(price) if price and action is CHANGE else held[1]
            left = {DONE: Decimal(0), MATCH: held[2] - amount, CHANGE: amount}[action]
            naive[order_id] = (held[0], where, left)
        naive = {name: order for name, order in naive.items() if order[2] > 0}
    totals: dict[tuple[str, Decimal], Decimal] = {}
    for side, where, amount in naive.values():
        totals[side, where] = totals.get((side, where), Decimal(0)) + amount
    truth = Book()
    truth.apply([(side, str(price), str(total)) for (side, price), total in totals.items()])
    assert levels == truth
    whole = Book()
    whole.replace(*orders.levels())
    assert whole == truth
    assert len(orders) == len(naive)


def test_levels_are_told_best_first() -> None:
    orders = OrderBook()
    for number, price in enumerate(("9", "11", "10")):
        orders.apply(event(OPEN, f"b{number}", "1", price, "buy"))
        orders.apply(event(OPEN, f"s{number}", "1", f"2{price}", "sell"))
    bids, asks = orders.levels()
    assert [price for price, _ in bids] == ["11", "10", "9"]
    assert [price for price, _ in asks] == ["29", "210", "211"]


def test_an_order_that_moves_within_its_level_is_one_change() -> None:
    orders = OrderBook()
    orders.apply(event(OPEN, "a", "1", "10", "buy"))
    orders.apply(event(OPEN, "b", "2", "10", "buy"))
    assert orders.apply(event(OPEN, "b", "5", "10", "buy")) == [("buy", "10", "6")]


def test_an_order_that_changes_its_price_is_found_by_its_name_still() -> None:
    orders = OrderBook()
    orders.apply(event(OPEN, "a", "1", "10", "buy"))
    orders.apply(event(CHANGE, "a", "1", "11", "buy"))
    assert orders.apply(event(DONE, "a", "0", "", "")) == [("buy", "11", "0")]
    assert len(orders) == 0


def test_pitfall_1_a_recorded_full_feed_is_contiguous_across_its_mixed_types(
    captures: Path,
) -> None:
    feed = CoinbaseFeed(orders=True)
    last: dict[str, int] = {}
    book = OrderBook()
    changes = steps = 0
    for line in (captures / "coinbase" / "full_2017-06-25.ndjson").read_bytes().splitlines():
        message = feed.parse(line)
        if message.order is None:
            # A heartbeat repeats the last sequence and is no step.
            continue
        if message.product in last:
            assert message.order.sequence == last[message.product] + 1
            steps += 1
        last[message.product] = message.order.sequence
        changes += len(book.apply(message.order))
    assert steps == 20
    assert changes > 0
