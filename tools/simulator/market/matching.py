"""An order-level book with price-time priority. Pure: integers in, events out.

Events have the venue's words and names of fields.

Prices are numbers of quote increments, sizes numbers of 1e-8 base units. The book never crosses,
but in an auction: what could trade does, before anything rests.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from sortedcontainers import SortedDict

from services.common.domain.book import BUY, SELL


class Received(NamedTuple):
    order_id: str
    side: str
    size: int
    price: int | None


class Opened(NamedTuple):
    order_id: str
    side: str
    price: int
    remaining_size: int


class Done(NamedTuple):
    """An order's end; `price` is None for a market order, which never rested."""

    order_id: str
    side: str
    price: int | None
    remaining_size: int
    reason: str


class Matched(NamedTuple):
    """A trade; `side` is the maker's."""

    maker_order_id: str
    taker_order_id: str
    side: str
    price: int
    size: int


class Resized(NamedTuple):
    order_id: str
    side: str
    price: int
    old_size: int
    new_size: int
    reason: str = "STP"


class Moved(NamedTuple):
    """A resting order whose owner changed its price."""

    order_id: str
    side: str
    old_price: int
    new_price: int
    old_size: int
    new_size: int
    reason: str = "modify_order"


class Activated(NamedTuple):
    """A stop order that became an order; its `Received` follows."""

    order_id: str
    side: str
    stop_price: int
    size: int


NumberedEvent = Received | Opened | Done | Matched | Resized | Moved
Event = NumberedEvent | Activated
Touched = tuple[str, int]


@dataclass(slots=True)
class Order:
    id: str
    side: str
    price: int
    size: int
    # Index in its side's list, for choosing one at random in constant time.
    slot: int = 0


class Level:
    """All resting orders of one price, oldest first."""

    __slots__ = ("orders", "size")

    def __init__(self) -> None:
        self.orders: dict[str, Order] = {}
        self.size = 0


class Half:
    """One side; iterates best price first."""

    def __init__(self, side: str) -> None:
        self.side = side
        self._sign = -1 if side == BUY else 1
        self.levels: SortedDict[int, Level] = SortedDict()
        self.orders: list[Order] = []

    def __len__(self) -> int:
        return len(self.levels)

    @property
    def best(self) -> int | None:
        return self._sign * self.levels.peekitem(0)[0] if self.levels else None

    def first(self) -> Level | None:
        return self.levels.peekitem(0)[1] if self.levels else None

    def at(self, price: int) -> Level | None:
        return self.levels.get(self._sign * price)

    def walk(self) -> Iterator[tuple[int, Level]]:
        """(price, level), best first."""
        for key, level in self.levels.items():
            yield self._sign * key, level

    def add(self, order: Order) -> None:
        key = self._sign * order.price
        level = self.levels.get(key)
        if level is None:
            level = self.levels[key] = Level()
        self._put(order, level)

    def add_all(self, orders: Iterable[Order]) -> None:
        """`add` for many at once, which sorts only once."""
        levels = dict(self.levels)
        for order in orders:
            self._put(order, levels.setdefault(self._sign * order.price, Level()))
        self.levels = SortedDict(levels)

    def _put(self, order: Order, level: Level) -> None:
        level.orders[order.id] = order
        level.size += order.size
        order.slot = len(self.orders)
        self.orders.append(order)

    def remove(self, order: Order) -> None:
        key = self._sign * order.price
        level = self.levels[key]
        del level.orders[order.id]
        level.size -= order.size
        if not level.orders:
            del self.levels[key]
        last = self.orders.pop()
        if last is not order:
            self.orders[order.slot] = last
            last.slot = order.slot

    def reduce(self, order: Order, new_size: int) -> None:
        self.levels[self._sign * order.price].size -= order.size - new_size
        order.size = new_size


class OrderBook:
    """The matching engine of one product.

    Every call returns the events it caused, in order, and adds the levels it changed to `touched`,
    which the caller empties.
    """

    def __init__(self) -> None:
        self.bids = Half(BUY)
        self.asks = Half(SELL)
        self._orders: dict[str, Order] = {}
        self.touched: dict[Touched, None] = {}
        # While an auction collects orders, nothing trades and the book may cross.
        self.collecting = False

    def half(self, side: str) -> Half:
        return self.bids if side == BUY else self.asks

    def __contains__(self, order_id: str) -> bool:
        return order_id in self._orders

    def size_at(self, side: str, price: int) -> int:
        """What rests at a level; 0 when nothing does."""
        level = self.half(side).at(price)
        return level.size if level is not None else 0

    def crosses(self, side: str, price: int) -> bool:
        """Whether an order at this price would trade at once."""
        best = self.half(_opposite(side)).best
        return best is not None and (price >= best if side == BUY else price <= best)

    def limit(self, order_id: str, side: str, price: int, size: int) -> list[Event]:
        """Trade what crosses; the rest rests."""
        events: list[Event] = [Received(order_id, side, size, price)]
        remaining = size if self.collecting else self._take(order_id, side, size, price, events)
        if remaining:
            self._rest(Order(order_id, side, price, remaining))
            events.append(Opened(order_id, side, price, remaining))
        else:
            events.append(Done(order_id, side, price, 0, "filled"))
        return events

    def market(self, order_id: str, side: str, size: int) -> list[Event]:
        """Trade at any price; what the book cannot fill is cancelled."""
        events: list[Event] = [Received(order_id, side, size, None)]
        remaining = self._take(order_id, side, size, None, events)
        events.append(Done(order_id, side, None, remaining, "canceled" if remaining else "filled"))
        return events

    def cancel(self, order_id: str) -> list[Event]:
        """Take an order off the book. Raises KeyError if no such order rests."""
        order = self._orders[order_id]
        self._off(order)
        return [Done(order_id, order.side, order.price, order.size, "canceled")]

    def resize(self, order_id: str, new_size: int) -> list[Event]:
        """Make an order smaller, keeping its priority.

        Raises:
            KeyError: no such order rests.
            ValueError: the new size is not between zero and the old one.
        """
        order = self._orders[order_id]
        if not 0 < new_size < order.size:
            raise ValueError(f"order {order_id}: cannot go from {order.size} to {new_size}")
        event = Resized(order_id, order.side, order.price, order.size, new_size)
        self.half(order.side).reduce(order, new_size)
        self.touched[order.side, order.price] = None
        return [event]

    def move(self, order_id: str, new_price: int) -> list[Event]:
        """Change a resting order's price, which costs its priority.

        Raises:
            KeyError: no such order rests.
            ValueError: it would trade there.
        """
        order = self._orders[order_id]
        if not self.collecting and self.crosses(order.side, new_price):
            raise ValueError(f"order {order_id} would trade at {new_price}")
        self._off(order)
        self._rest(Order(order_id, order.side, new_price, order.size))
        return [Moved(order_id, order.side, order.price, new_price, order.size, order.size)]

    def uncross(self) -> list[Event]:
        """End an auction: everything that crosses trades, at one price."""
        self.collecting = False
        pairs: list[tuple[Order, Order, int]] = []
        left: dict[str, int] = {}
        bids, asks = self._oldest_first(self.bids), self._oldest_first(self.asks)
        bid, ask = next(bids, None), next(asks, None)
        while bid is not None and ask is not None and bid.price >= ask.price:
            amount = min(left.get(bid.id, bid.size), left.get(ask.id, ask.size))
            pairs.append((bid, ask, amount))
            for order in (bid, ask):
                left[order.id] = left.get(order.id, order.size) - amount
            bid = bid if left[bid.id] else next(bids, None)
            ask = ask if left[ask.id] else next(asks, None)
        if not pairs:
            return []
        price = (pairs[-1][0].price + pairs[-1][1].price) // 2
        events: list[Event] = []
        for bid, ask, amount in pairs:
            events.append(Matched(ask.id, bid.id, ask.side, price, amount))
            for order in (bid, ask):
                if amount == order.size:
                    self._off(order)
                    events.append(Done(order.id, order.side, order.price, 0, "filled"))
                else:
                    self.half(order.side).reduce(order, order.size - amount)
                    self.touched[order.side, order.price] = None
        return events

    @staticmethod
    def _oldest_first(half: Half) -> Iterator[Order]:
        for _, level in half.walk():
            yield from level.orders.values()

    def _take(
        self, taker_id: str, side: str, size: int, limit: int | None, events: list[Event]
    ) -> int:
        half = self.half(_opposite(side))
        while size:
            best = half.best
            level = half.first()
            if best is None or level is None:
                break
            if limit is not None and not self.crosses(side, limit):
                break
            maker = next(iter(level.orders.values()))
            amount = min(size, maker.size)
            size -= amount
            events.append(Matched(maker.id, taker_id, maker.side, best, amount))
            if amount == maker.size:
                self._off(maker)
                events.append(Done(maker.id, maker.side, best, 0, "filled"))
            else:
                half.reduce(maker, maker.size - amount)
                self.touched[maker.side, best] = None
        return size

    def place(self, orders: Iterable[Order]) -> None:
        """Let orders rest that trade with nothing, without a word; for the book's beginning."""
        placed = list(orders)
        self._orders.update((order.id, order) for order in placed)
        for half in (self.bids, self.asks):
            half.add_all(order for order in placed if order.side == half.side)

    def _rest(self, order: Order) -> None:
        self._orders[order.id] = order
        self.half(order.side).add(order)
        self.touched[order.side, order.price] = None

    def _off(self, order: Order) -> None:
        del self._orders[order.id]
        self.half(order.side).remove(order)
        self.touched[order.side, order.price] = None


def _opposite(side: str) -> str:
    return SELL if side == BUY else BUY
