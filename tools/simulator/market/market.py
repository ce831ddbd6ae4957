"""The simulated market: a seeded discrete-event model of a whole exchange. Pure, no clock.

`advance(to)` plays everything up to that time, in time order: orders arrive at random (Poisson),
level 2 batches are cut each 50 ms or so, heartbeats fall on whole seconds. All channels, REST and
the control endpoint are read from the same books, so they agree at every instant. What happens
depends on the seed, the start and the settings alone, not on how the time is cut into calls.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from heapq import heapify, heapreplace
from itertools import accumulate
from random import Random
from typing import Any

from tools.simulator.clock import SECOND
from tools.simulator.market.product_market import ProductMarket
from tools.simulator.market.products import DEFAULT_PRODUCTS, DELISTED, Product, product
from tools.simulator.market.traffic import PLAIN, Traffic
from tools.simulator.protocol.messages import Channel, Outgoing
from tools.simulator.venue import ProductState, status

TICKER_BATCH_US = 5 * SECOND
STATUS_US = 5 * SECOND
# Orders that only change the book, for each one that trades.
_QUIET_PER_TRADE = 4.0
# Beyond this, more orders would hide inside the same 50 ms batch and cost without showing.
_MAX_QUIET_PER_PRODUCT = 60.0
_FILLS_PER_TRADE = 1.25
_NEVER_US = 2**63


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """How the market is built.

    `rate`: messages a second, about, that a client of ticker, matches, heartbeat and level2_batch
    gets for all products together. `depth`: levels a side, None: as many as the product has on the
    venue; `depths` overrides it by product.
    `history`: trades a product had before the start. `untraded`: products that have no orders and
    no trades, now or later.
    """

    products: Sequence[str] = DEFAULT_PRODUCTS
    seed: int = 1
    rate: float = 200.0
    depth: int | None = 200
    depths: Mapping[str, int] = field(default_factory=dict)
    history: int = 200
    untraded: Collection[str] = ()
    traffic: Traffic = PLAIN


class MarketModel:
    """All products of the exchange. `start_us` is the venue's clock before the first `advance`."""

    def __init__(self, settings: ModelSettings, start_us: int) -> None:
        listed = [product(each) for each in settings.products]
        gone = [each for each in DELISTED if each.id not in settings.products]
        self.products: list[Product] = [*listed, *gone]
        self._now = start_us
        self._rng = Random(f"{settings.seed}:schedule")

        def levels(each: Product) -> tuple[int, int]:
            depth = settings.depths.get(each.id, settings.depth)
            return each.levels if depth is None else (depth, depth)

        self._markets = [
            ProductMarket(
                each,
                Random(f"{settings.seed}:{each.id}"),
                depths=levels(each),
                start_us=start_us,
                history=settings.history,
                untraded=each.id in settings.untraded,
                traffic=settings.traffic,
            )
            for each in listed
        ]
        self._by_id = {market.product.id: market for market in self._markets}
        self._delisted: set[str] = set()
        # When each auction that is running ends.
        self._auctions: dict[str, int] = {}
        weights = [0.0 if each.id in settings.untraded else each.weight for each in listed]
        self._trades_per_s, self._quiet_per_s = plan_rates(settings.rate, weights)
        trade_weights = [self._trades_per_s * weight / (sum(weights) or 1) for weight in weights]
        self._trade_weights = list(accumulate(trade_weights))
        self._quiet_weights = list(accumulate(_quiet_rate(each) for each in trade_weights))
        self._next_order = self._after_pause(start_us)
        # Products take turns, so that batches do not come all at once: (time, index) of each.
        turn_us = settings.traffic.batch_us // max(1, len(self._markets))
        self._batches = [(start_us + 1 + turn_us * i, i) for i in range(len(self._markets))]
        heapify(self._batches)

    @property
    def now_us(self) -> int:
        return self._now

    def state(
        self, product_id: str, *, orders: bool = False, depth: int | None = None
    ) -> ProductState:
        """The product now; `depth` limits the rows. Raises KeyError for one that is not traded."""
        return self._by_id[product_id].state(self._now, orders=orders, depth=depth)

    def has_book(self, product_id: str) -> bool:
        return product_id in self._by_id

    def advance(self, to_us: int) -> list[Outgoing]:
        """Play everything after the last call up to and including `to_us`, in order."""
        out: list[Outgoing] = []
        second = (self._now // SECOND + 1) * SECOND
        while True:
            batch = self._batches[0][0]
            auction = min(self._auctions.values(), default=_NEVER_US)
            at = min(self._next_order, batch, second, auction)
            if at > to_us:
                break
            # At equal times orders come first, then batches, then what reports on them.
            if at == auction:
                self._end_auctions([n for n, end in self._auctions.items() if end == at], at, out)
            elif at == self._next_order:
                self._next_order = self._after_pause(at)
                self._order(at, out)
            elif at == batch:
                self._cut_batch(at, out)
            else:
                self._on_second(second, out)
                second += SECOND
        self._now = max(self._now, to_us)
        return out

    def _order(self, at: int, out: list[Outgoing]) -> None:
        trades = self._rng.random() < self._trades_per_s / (self._trades_per_s + self._quiet_per_s)
        weights = self._trade_weights if trades else self._quiet_weights
        (market,) = self._rng.choices(self._markets, cum_weights=weights)
        if self._listed(market):
            # A burst ends before whatever comes next, so that no product's time goes back.
            room = min(self._next_order, self._batches[0][0], (at // SECOND + 1) * SECOND) - at
            market.order(at, room, trades=trades, out=out)

    def _cut_batch(self, at: int, out: list[Outgoing]) -> None:
        _, index = self._batches[0]
        market = self._markets[index]
        heapreplace(self._batches, (at + market.next_batch_us(), index))
        if self._listed(market):
            market.cut_batch(out)

    def _listed(self, market: ProductMarket) -> bool:
        return market.product.id not in self._delisted

    def _on_second(self, at: int, out: list[Outgoing]) -> None:
        listed = [market for market in self._markets if self._listed(market)]
        for market in listed:
            market.heartbeat(at, out)
        if at % TICKER_BATCH_US == 0:
            for market in listed:
                market.ticker_batch(out)
        if at % STATUS_US == 0:
            out.append(Outgoing((Channel.STATUS,), "", "status", status(self.products)))

    def idle(self, to_us: int) -> list[Outgoing]:
        """Let time pass in which nobody orders anything; heartbeats and status go on."""
        out: list[Outgoing] = []
        for second in range(self._now // SECOND + 1, to_us // SECOND + 1):
            self._on_second(second * SECOND, out)
        self._now = max(self._now, to_us)
        self._next_order = max(self._next_order, self._now + 1)
        self._batches = [(max(at, self._now + 1), index) for at, index in self._batches]
        heapify(self._batches)
        return out

    def cut_batches(self) -> list[Outgoing]:
        """The level 2 changes that still wait for their batch, now."""
        out: list[Outgoing] = []
        for market in self._markets:
            if self._listed(market):
                market.cut_batch(out)
        return out

    def write_for(self, wanted: Callable[[str, str], bool]) -> None:
        """Write single orders and levels only where `wanted(channel, product)` says so.

        They happen all the same: sequences, books and all other messages are the same.
        """

        def of(name: str) -> Callable[[str], bool]:
            return lambda channel: wanted(channel, name)

        for name, market in self._by_id.items():
            market.wanted = of(name)

    def begin_auction(self, product_ids: Iterable[str], for_us: int) -> None:
        """Collect orders of these products for so long. Raises KeyError for an unknown one."""
        for name in product_ids:
            self._by_id[name].begin_auction()
            self._auctions[name] = self._now + for_us
            self._change_product(name, auction=True)

    def end_auctions(self) -> list[Outgoing]:
        out: list[Outgoing] = []
        self._end_auctions(list(self._auctions), self._now, out)
        return out

    def _end_auctions(self, names: Iterable[str], at: int, out: list[Outgoing]) -> None:
        for name in names:
            del self._auctions[name]
            self._change_product(name, auction=False)
            self._by_id[name].end_auction(at, out)

    def delist(self, product_ids: Iterable[str]) -> list[Outgoing]:
        """From now on nothing is heard of these products, and REST refuses them.

        Raises:
            KeyError: a product is not traded here.
        """
        for name in product_ids:
            self._by_id[name]  # An unknown name has to be told before anything changes.
            self._delisted.add(name)
            self._change_product(name, status="delisted")
        return [Outgoing((Channel.STATUS,), "", "status", status(self.products))]

    def renumber(self, product_ids: Iterable[str]) -> None:
        """Begin sequences and trade ids of these products anew. Raises KeyError as `delist`."""
        for name in product_ids:
            self._by_id[name].renumber()

    def _change_product(self, name: str, **changes: Any) -> None:
        self.products = [
            replace(each, **changes) if each.id == name else each for each in self.products
        ]

    def _after_pause(self, at: int) -> int:
        rate = self._trades_per_s + self._quiet_per_s
        if not rate:
            return _NEVER_US
        return at + max(1, math.ceil(self._rng.expovariate(rate) * SECOND))


def plan_rates(rate: float, weights: Sequence[float]) -> tuple[float, float]:
    """(trading, other) orders a second that make about `rate` public messages a second.

    Heartbeats are fixed; each trade is a match and a ticker; level 2 batches saturate at 20 a
    second and product. The whole rises with the trades, so bisection finds them.
    """
    total = sum(weights)
    if not total:
        return 0.0, 0.0
    shares = [weight / total for weight in weights]

    def messages(trades: float) -> float:
        level2 = sum(
            20 * (1 - math.exp(-(trades * share + _quiet_rate(trades * share)) / 20))
            for share in shares
        )
        return len(shares) + level2 + 2 * _FILLS_PER_TRADE * trades

    low, high = 0.01, max(1.0, rate)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if messages(middle) < rate else (low, middle)
    return low, sum(_quiet_rate(low * share) for share in shares)


def _quiet_rate(trades: float) -> float:
    # Never fewer than the trades, which would empty the book.
    return max(min(_QUIET_PER_TRADE * trades, _MAX_QUIET_PER_PRODUCT), 1.5 * trades)
