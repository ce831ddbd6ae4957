"""A book of single orders, and what each of them does to the book of levels. Pure.

Messages about orders that never rested here are normal and change nothing: a market order's `done`,
an order that was filled the moment it came.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from services.common.domain.book import BUY, SELL
from services.common.domain.decimals import EXACT, plain, to_decimal
from services.ingestor.venues.base import OrderAction, OrderEvent, OrderRow

# Side, price and new size of a level; size "0" removes it.
Change = tuple[str, str, str]
GONE = "0"


@dataclass(slots=True)
class _Level:
    """All orders at one price; `text` is the price as the venue wrote it."""

    text: str
    size: Decimal = Decimal(0)
    orders: int = 0


@dataclass(slots=True)
class _Order:
    side: str
    price: Decimal
    size: Decimal


class OrderBook:
    """Feed it every message of the product, in order of `sequence`, on top of a `load`."""

    def __init__(self) -> None:
        self._orders: dict[str, _Order] = {}
        self._levels: dict[str, dict[Decimal, _Level]] = {BUY: {}, SELL: {}}

    def load(self, bids: Iterable[OrderRow], asks: Iterable[OrderRow]) -> None:
        """Drop everything and hold these orders instead."""
        self._orders = {}
        self._levels = {BUY: {}, SELL: {}}
        for side, rows in ((BUY, bids), (SELL, asks)):
            for price, size, order_id in rows:
                self._add(order_id, side, price, to_decimal(size))

    def apply(self, event: OrderEvent) -> list[Change]:
        """Take a message in; the levels that are different now."""
        action = event.action
        if action is OrderAction.NONE:
            return []
        if action is OrderAction.OPEN:
            # Told twice, it still rests only once.
            gone = self._remove(event.order_id)
            return _joined(gone, self._add(event.order_id, event.side, event.price, event.size))
        order = self._orders.get(event.order_id)
        if order is None:
            return []
        if action is OrderAction.DONE:
            return _joined(self._remove(event.order_id))
        if action is OrderAction.MATCH:
            left = EXACT.subtract(order.size, event.size)
            return _joined(self._resize(event.order_id, order, left))
        if not event.price or to_decimal(event.price) == order.price:
            return _joined(self._resize(event.order_id, order, event.size))
        gone = self._remove(event.order_id)
        return _joined(gone, self._add(event.order_id, order.side, event.price, event.size))

    def levels(self) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
        """(bids, asks) as (price, size), best first."""
        bids, asks = self._levels[BUY], self._levels[SELL]
        return (
            [(bids[key].text, plain(bids[key].size)) for key in sorted(bids, reverse=True)],
            [(asks[key].text, plain(asks[key].size)) for key in sorted(asks)],
        )

    def __len__(self) -> int:
        """How many orders rest."""
        return len(self._orders)

    def _add(self, order_id: str, side: str, price: str, size: Decimal) -> Change | None:
        if size <= 0:
            return None
        key = to_decimal(price)
        level = self._levels[side].get(key)
        if level is None:
            level = self._levels[side][key] = _Level(price)
        self._orders[order_id] = _Order(side, key, size)
        level.size = EXACT.add(level.size, size)
        level.orders += 1
        return side, level.text, plain(level.size)

    def _remove(self, order_id: str) -> Change | None:
        order = self._orders.pop(order_id, None)
        if order is None:
            return None
        level = self._levels[order.side][order.price]
        level.size = EXACT.subtract(level.size, order.size)
        level.orders -= 1
        if level.orders:
            return order.side, level.text, plain(level.size)
        del self._levels[order.side][order.price]
        return order.side, level.text, GONE

    def _resize(self, order_id: str, order: _Order, size: Decimal) -> Change | None:
        if size <= 0:
            return self._remove(order_id)
        if size == order.size:
            return None
        level = self._levels[order.side][order.price]
        level.size = EXACT.add(level.size, EXACT.subtract(size, order.size))
        order.size = size
        return order.side, level.text, plain(level.size)


def _joined(*changes: Change | None) -> list[Change]:
    """Those that are; of two of one level only the newer one."""
    found: dict[tuple[str, str], Change] = {}
    for change in changes:
        if change is not None:
            found[change[:2]] = change
    return list(found.values())
