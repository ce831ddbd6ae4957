"""A random flow of orders for one product: who comes next and what they want. Pure, seeded."""

from __future__ import annotations

from itertools import islice
from random import Random

from services.common.domain.book import BUY, SELL
from tools.simulator.matching import Event, Half, OrderBook
from tools.simulator.products import Product

# How far the initial ladder reaches from the middle, as a share of the price.
_LADDER_SPAN = 0.05
# Scale of the distance of orders near the touch, as a share of the price.
_NEAR = 2e-5
_VOLATILITY = 4e-6
# A side is not eaten below this many levels; new orders come instead.
_MIN_LEVELS = 4


class OrderFlow:
    """Keeps about `depth` levels a side around a fair price that wanders.

    `quiet()` is one order event that does not trade (a new order, a cancellation, a smaller size);
    `trade()` is one order that does.
    """

    def __init__(self, product: Product, rng: Random, depth: int) -> None:
        self._scale = product.scale()
        self._rng = rng
        self._depth = depth
        self._fair = float(self._scale.start)
        self._near = max(1.0, self._fair * _NEAR)
        self._step = max(1, int(self._fair * _LADDER_SPAN / max(1, depth)))
        self.book = OrderBook()
        self._build()

    def _build(self) -> None:
        start = self._scale.start
        for side, sign in ((BUY, -1), (SELL, 1)):
            distance = 0
            for index in range(self._depth):
                # The first levels stand close together, as they do on the venue.
                reach = self._step if index > 5 else max(1, int(self._near / 4))
                distance += self._rng.randint(1, max(1, reach * 2 - 1))
                price = start + sign * distance
                if price < 1:
                    break
                for _ in range(self._rng.choice((1, 1, 1, 2, 3))):
                    self.book.limit(self._id(), side, price, self._resting_size(price))
        self.book.touched.clear()

    def _id(self) -> str:
        text = f"{self._rng.getrandbits(128):032x}"
        return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-a{text[17:20]}-{text[20:]}"

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
        surplus = (len(half) - self._depth) / self._depth
        chance = rng.random()
        if len(half) > _MIN_LEVELS and chance < 0.45 + surplus:
            best = half.first()
            if best is not None and rng.random() < 0.3:
                # Quotes at the touch live shortest.
                order_id = next(reversed(best.orders))
                return self.book.cancel(order_id)
            order = half.orders[rng.randrange(len(half.orders))]
            if order.size > 2 * self._scale.lot and rng.random() < 0.05:
                lots = order.size // 2 // self._scale.lot
                return self.book.resize(order.id, lots * self._scale.lot)
            return self.book.cancel(order.id)
        price = self._quote(side)
        return self.book.limit(self._id(), side, price, self._resting_size(price))

    def _quote(self, side: str) -> int:
        """A price that does not trade."""
        rng = self._rng
        sign = -1 if side == BUY else 1
        if rng.random() < 0.75:
            distance = rng.expovariate(1 / (self._near * 3))
        else:
            distance = rng.random() * self._step * self._depth
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
            return self.book.market(self._id(), side, min(size, self._reachable(half)))
        reach = rng.randrange(1 + int(self._near))
        limit = max(1, price + reach if side == BUY else price - reach)
        return self.book.limit(self._id(), side, limit, size)

    def _eager(self) -> list[Event]:
        """An order some way beyond the fair price, which makes an auction's book cross."""
        side, sign = self._rng.choice(((BUY, 1), (SELL, -1)))
        price = max(1, round(self._fair + sign * self._rng.expovariate(1 / self._near)))
        return self.book.limit(self._id(), side, price, self._resting_size(price))

    def _reachable(self, half: Half) -> int:
        """What one market order may take: some levels, never the whole side."""
        levels = min(10, len(half) - _MIN_LEVELS)
        return sum(level.size for _, level in islice(half.walk(), levels))
