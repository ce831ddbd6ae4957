from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.domain.book import BUY, SELL
from tools.simulator.market.matching import (
    Done,
    Event,
    Matched,
    Opened,
    OrderBook,
    Received,
    Resized,
)

sides = st.sampled_from([BUY, SELL])
prices = st.integers(90, 110)
sizes = st.integers(1, 50)
actions = st.lists(
    st.one_of(
        st.tuples(st.just("limit"), sides, prices, sizes),
        st.tuples(st.just("market"), sides, st.just(0), sizes),
        st.tuples(st.just("cancel"), sides, st.just(0), st.integers(0, 1000)),
        st.tuples(st.just("resize"), sides, st.just(0), st.integers(0, 1000)),
    ),
    max_size=120,
)


Step = tuple[str, str, int, int]


def act(book: OrderBook, number: int, step: Step) -> list[Event]:
    kind, side, price, amount = step
    resting = book.half(side).orders
    match kind:
        case "limit":
            return book.limit(f"o{number}", side, price, amount)
        case "market":
            return book.market(f"o{number}", side, amount)
        case "cancel" if resting:
            return book.cancel(resting[amount % len(resting)].id)
        case "resize" if resting:
            order = resting[amount % len(resting)]
            return book.resize(order.id, order.size // 2) if order.size > 1 else []
        case _:
            return []


def assert_sound(book: OrderBook) -> None:
    bid, ask = book.bids.best, book.asks.best
    assert bid is None or ask is None or bid < ask
    for half in (book.bids, book.asks):
        walked = [price for price, _ in half.walk()]
        assert walked == sorted(walked, reverse=half.side == BUY)
        for _, level in half.walk():
            assert level.orders
            assert level.size == sum(order.size for order in level.orders.values()) > 0
        assert sum(len(level.orders) for _, level in half.walk()) == len(half.orders)
        assert all(half.orders[order.slot] is order for order in half.orders)


@given(actions)
def test_the_book_is_never_crossed_and_levels_are_the_sum_of_their_orders(
    steps: list[Step],
) -> None:
    book = OrderBook()
    for number, step in enumerate(steps):
        act(book, number, step)
        assert_sound(book)


@given(actions)
def test_folding_the_events_as_a_client_does_gives_the_same_orders(
    steps: list[Step],
) -> None:
    book = OrderBook()
    orders: dict[str, int] = {}
    for event in [each for number, step in enumerate(steps) for each in act(book, number, step)]:
        match event:
            case Opened():
                orders[event.order_id] = event.remaining_size
            case Matched():
                orders[event.maker_order_id] -= event.size
            case Done():
                orders.pop(event.order_id, None)
            case Received():
                pass
            case Resized():
                orders[event.order_id] = event.new_size
    held = {order.id: order.size for half in (book.bids, book.asks) for order in half.orders}
    assert orders == held


@given(actions)
def test_every_changed_level_is_named_in_touched(steps: list[Step]) -> None:
    book = OrderBook()
    levels: dict[tuple[str, int], int] = {}
    for number, step in enumerate(steps):
        act(book, number, step)
        for side, price in book.touched:
            levels[side, price] = book.size_at(side, price)
        book.touched.clear()
    assert {key: size for key, size in levels.items() if size} == {
        (half.side, price): level.size
        for half in (book.bids, book.asks)
        for price, level in half.walk()
    }


def test_orders_of_one_price_trade_in_order_of_arrival() -> None:
    book = OrderBook()
    book.limit("first", SELL, 100, 5)
    book.limit("second", SELL, 100, 5)
    makers = [
        each.maker_order_id for each in book.market("taker", BUY, 7) if isinstance(each, Matched)
    ]
    assert makers == ["first", "second"]
    assert "first" not in book
    assert book.size_at(SELL, 100) == 3


def test_a_market_order_that_empties_the_side_is_cancelled_with_its_rest() -> None:
    book = OrderBook()
    book.limit("maker", SELL, 100, 5)
    end = book.market("taker", BUY, 8)[-1]
    assert end == Done("taker", BUY, None, 3, "canceled")


def test_an_order_cannot_grow_by_resizing() -> None:
    book = OrderBook()
    book.limit("order", BUY, 100, 5)
    with pytest.raises(ValueError, match="cannot go from 5 to 5"):
        book.resize("order", 5)
