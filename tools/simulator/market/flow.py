"""A random flow of orders for one product: who comes next and what they want. Pure, seeded."""

from __future__ import annotations

from itertools import islice
from random import Random

from services.common.domain.book import BUY, SELL
from tools.simulator.market.matching import Activated, Event, Half, Order, OrderBook
from tools.simulator.market.products import Product
from tools.simulator.market.traffic import PLAIN, Traffic

# How far the initial ladder reaches from the middle, as a share of the price.
_LADDER_SPAN = 0.05
# Scale of the distance of orders near the touch, as a share of the price.
_NEAR = 2e-5
_VOLATILITY = 4e-6
# A side is not eaten below this many levels; new orders come instead.
_MIN_LEVELS = 4
# Levels that stand close together at the touch, as they do on the venue.
_CLOSE = 6
# From so many levels on a tenth of them is far away, asks up to so many times the price.
_DEEP = 1_000
_FARTHEST = 2_000


def new_order_id(rng: Random) -> str:
    """A new UUID, as the venue's orders have."""
    text = f"{rng.getrandbits(128):032x}"
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-a{text[17:20]}-{text[20:]}"


def _far_levels(levels: int) -> int:
    return levels // 10 if levels >= _DEEP else 0


class OrderFlow:
    """Keeps about so many levels a side around a fair price that wanders.

    `quiet()` is one order event that does not trade (a new order, a cancellation, a smaller size);
    `trade()` is one order that does.
    """

    def __init__(
        self, product: Product, rng: Random, depths: tuple[int, int], traffic: Traffic = PLAIN
    ) -> None:
        """`depths` are the levels of bids and of asks."""
        self._scale = product.scale()
        self._rng = rng
        self._depths = {BUY: depths[0], SELL: depths[1]}
        self._traffic = traffic
        self._fair = float(self._scale.start)
        self._near = max(1.0, self._fair * _NEAR)
        self.book = OrderBook()
        self._build()

    def _build(self) -> None:
        start, rng = self._scale.start, self._rng
        for side, sign in ((BUY, -1), (SELL, 1)):
            prices = [start + sign * each for each in self._ladder(self._depths[side])]
            self.book.place(
                Order(new_order_id(self._rng), side, price, self._resting_size(price))
                for price in [each for each in prices if each >= 1] + self._far(side, prices)
                for _ in range(rng.choice((1, 1, 1, 1, 2)))
            )

    def _ladder(self, levels: int) -> list[int]:
        """Distances of the levels around the middle, ascending.

        They stand close together at the touch, then evenly as far as `_LADDER_SPAN`.
        """
        rng = self._rng
        near = max(1, int(self._near / 4))
        step = max(1, int(self._fair * _LADDER_SPAN / max(1, levels)))
        found: list[int] = []
        distance = 0
        for index in range(levels - _far_levels(levels)):
            distance += rng.randint(1, 2 * near if index < _CLOSE else max(1, step * 2 - 1))
            found.append(distance)
        return found

    def _far(self, side: str, prices: list[int]) -> list[int]:
        """Prices of a deep book's last levels, wherever somebody once hoped for."""
        count = _far_levels(self._depths[side])
        last = prices[-1] if prices else 0
        if not count or last < 1:
            return []
        rng = self._rng
        if side == BUY:
            found = {int(last ** rng.random()) for _ in range(count)}
            return sorted((each for each in found if each < last), reverse=True)
        found = {int(last * _FARTHEST ** rng.random()) for _ in range(count)}
        return sorted(each for each in found if each > last)

    def _resting_size(self, price: int) -> int:
        return self._scale.notional_size(self._rng.lognormvariate(7.3, 1.2), price)

    def _drift(self) -> None:
        rng, start = self._rng, self._scale.start
        # Pulled back slightly, so that a run of days stays near the listed price.
        pull = (start - self._fair) / start * 1e-5
        self._fair *= 1 + pull + rng.gauss(0, _VOLATILITY)

    def quiet(self) -> list[Event]:
        """One order event without a trade."""
        self._drift()
        rng = self._rng
        side = BUY if rng.random() < 0.5 else SELL
        half = self.book.half(side)
        depth = self._depths[side]
        surplus = (len(half) - depth) / max(1, depth)
        chance = rng.random()
        if len(half) > _MIN_LEVELS and chance < 0.45 + surplus:
            best = half.first()
            if best is not None and rng.random() < 0.3:
                # Quotes at the touch live shortest.
                order_id = next(reversed(best.orders))
                return self.book.cancel(order_id)
            order = half.orders[rng.randrange(len(half.orders))]
            if self._traffic.modified and rng.random() < self._traffic.modified:
                price = self._quote(side)
                free = self.book.collecting or not self.book.crosses(side, price)
                if free and price != order.price:
                    return self.book.move(order.id, price)
            if order.size > 2 * self._scale.lot and rng.random() < 0.05:
                lots = order.size // 2 // self._scale.lot
                return self.book.resize(order.id, lots * self._scale.lot)
            return self.book.cancel(order.id)
        price = self._quote(side)
        return self.book.limit(new_order_id(self._rng), side, price, self._resting_size(price))

    def flicker(self) -> list[Event]:
        """An order that is withdrawn as soon as it rests."""
        side = self._rng.choice((BUY, SELL))
        price, order_id = self._quote(side), new_order_id(self._rng)
        events = self.book.limit(order_id, side, price, self._resting_size(price))
        return events + self.book.cancel(order_id)

    def _quote(self, side: str) -> int:
        """A price that does not trade."""
        rng = self._rng
        sign = -1 if side == BUY else 1
        if rng.random() < 0.75:
            distance = rng.expovariate(1 / (self._near * 3))
        else:
            distance = rng.random() * self._fair * _LADDER_SPAN
        price = max(1, round(self._fair + sign * (self._near / 2 + distance)))
        if not self.book.collecting and self.book.crosses(side, price):
            best = self.book.half(SELL if side == BUY else BUY).best or price
            price = best + sign
        return max(1, price)

    def trade(self) -> list[Event]:
        """One order that trades, or `quiet` when the side it would hit is almost empty.

        In an auction it is one that would trade, and rests.
        """
        self._drift()
        rng = self._rng
        bid, ask = self.book.bids.best, self.book.asks.best
        if bid is None or ask is None:
            return self.quiet()
        if self.book.collecting:
            return self._eager()
        lean = (self._fair - (bid + ask) / 2) / (8 * self._near)
        side = BUY if rng.random() < min(0.9, max(0.1, 0.5 + lean)) else SELL
        half = self.book.asks if side == BUY else self.book.bids
        if len(half) <= _MIN_LEVELS:
            return self.quiet()
        price = ask if side == BUY else bid
        size = self._scale.notional_size(rng.lognormvariate(5.5, 1.8), price)
        if rng.random() < 0.7:
            order_id, size = new_order_id(self._rng), min(size, self._reachable(half))
            stopped: list[Event] = []
            if self._traffic.activated and rng.random() < self._traffic.activated:
                stopped.append(Activated(order_id, side, price, size))
            return stopped + self.book.market(order_id, side, size)
        reach = rng.randrange(1 + int(self._near))
        limit = max(1, price + reach if side == BUY else price - reach)
        return self.book.limit(new_order_id(self._rng), side, limit, size)

    def _eager(self) -> list[Event]:
        """An order some way beyond the fair price, which makes an auction's book cross."""
        side, sign = self._rng.choice(((BUY, 1), (SELL, -1)))
        price = max(1, round(self._fair + sign * self._rng.expovariate(1 / self._near)))
        return self.book.limit(new_order_id(self._rng), side, price, self._resting_size(price))

    def _reachable(self, half: Half) -> int:
        """What one market order may take: some levels, never the whole side."""
        levels = min(10, len(half) - _MIN_LEVELS)
        return sum(level.size for _, level in islice(half.walk(), levels))
