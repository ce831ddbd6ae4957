"""What the server needs to know of a market, whether it is simulated or replayed."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from services.common.domain.book import BUY
from tools.simulator.clock import iso6
from tools.simulator.market.products import DELISTED, Product, currency_rows, product_rows, trim
from tools.simulator.protocol.messages import (
    LEVEL3_SCHEMA,
    Channel,
    LastMatch,
    Match,
    Outgoing,
    Snapshot,
    Status,
    Ticker,
    encode,
)

PAGE_LIMIT = 1000


class Tape:
    """Trades in ascending trade id; the oldest are forgotten beyond `keep`."""

    def __init__(self, keep: int = 100_000) -> None:
        self._keep = keep
        self._trades: list[Match] = []

    def add(self, trade: Match) -> None:
        """Append a trade; one that is not newer than the last is ignored."""
        if self._trades and trade.trade_id <= self._trades[-1].trade_id:
            return
        self._trades.append(trade)
        # Cut rarely, in one go, so that adding stays cheap.
        if len(self._trades) > self._keep + self._keep // 4:
            del self._trades[: -self._keep]

    def __len__(self) -> int:
        return len(self._trades)

    @property
    def last(self) -> Match | None:
        return self._trades[-1] if self._trades else None

    def all(self) -> list[Match]:
        """Ascending, the newest `keep`."""
        return self._trades[-self._keep :]

    def page(
        self, before: int | None = None, after: int | None = None, limit: int = PAGE_LIMIT
    ) -> list[Match]:
        """At most `limit` trades, newest first, with `before` < id < `after` (both exclusive)."""
        low = 0 if before is None else bisect_right(self._trades, before, key=_id)
        high = len(self._trades) if after is None else bisect_left(self._trades, after, key=_id)
        return self._trades[max(low, high - limit) : high][::-1] if high > low else []

    def copy(self) -> Tape:
        twin = Tape(self._keep)
        twin._trades = self._trades.copy()
        return twin


def _id(trade: Match) -> int:
    return trade.trade_id


L2Row = tuple[str, str, int]


@dataclass(frozen=True, slots=True)
class ProductState:
    """One product at one instant; everything in it belongs together.

    Rows are (price, size, number of orders), best first, with all decimals. `orders` are
    (side, price, size, order id) or None where the market has no orders. In an `auction` the book
    is indicative and may cross. `figures` are those of the day by their names in a ticker, where
    they are known. `told_after` is the trade before the first that a recorded feed tells of.
    """

    product: str
    time_us: int
    sequence: int
    bids: list[L2Row]
    asks: list[L2Row]
    tape: Tape
    figures: Mapping[str, str] = field(default_factory=dict)
    orders: list[tuple[str, str, str, str]] | None = None
    auction: bool = False
    told_after: int | None = None

    @property
    def last_trade(self) -> Match | None:
        return self.tape.last

    def ticker(self) -> Ticker | None:
        """The ticker message of the last trade; None before the first trade."""
        trade = self.last_trade
        if trade is None:
            return None
        return ticker_of(trade, self.figures, self.bids, self.asks)

    def snapshot(self) -> Snapshot:
        return Snapshot(
            self.product,
            asks=[(price, size) for price, size, _ in self.asks],
            bids=[(price, size) for price, size, _ in self.bids],
            time=iso6(self.time_us),
        )


class Venue(Protocol):
    """A market that can be asked at any instant."""

    @property
    def products(self) -> Sequence[Product]:
        """All listed products, also delisted ones."""

    @property
    def now_us(self) -> int:
        """The market's clock."""

    def state(
        self, product: str, *, orders: bool = False, depth: int | None = None
    ) -> ProductState:
        """The product now. Raises KeyError if the product is not traded here."""

    def has_book(self, product: str) -> bool:
        """Whether the book is known yet (a replay has to pass the recorded snapshot first)."""


def online(products: Sequence[Product]) -> list[str]:
    return [each.id for each in products if each.tradable]


def greeting(venue: Venue, channel: str, product: str) -> list[Outgoing]:
    """What a client that has just subscribed gets at once."""
    channels = (channel,)
    if channel == Channel.STATUS:
        return [Outgoing(channels, "", "status", status(venue.products))]
    if channel == Channel.LEVEL3:
        schema = {"type": "level3", "schema": LEVEL3_SCHEMA}
        return [Outgoing(channels, product, "level3", encode(schema))]
    if channel in (Channel.LEVEL2, Channel.LEVEL2_BATCH) and venue.has_book(product):
        return [Outgoing(channels, product, "snapshot", venue.state(product).snapshot())]
    if channel in (Channel.TICKER, Channel.TICKER_BATCH):
        ticker = venue.state(product, depth=1).ticker()
        return [Outgoing(channels, product, "ticker", ticker)] if ticker is not None else []
    if channel == Channel.MATCHES:
        trade = venue.state(product, depth=0).last_trade
        if trade is not None:
            return [Outgoing(channels, product, "last_match", LastMatch.of(trade))]
    return []


def ticker_of(
    trade: Match, figures: Mapping[str, str], bids: Sequence[L2Row], asks: Sequence[L2Row]
) -> Ticker:
    return Ticker(
        sequence=trade.sequence,
        product_id=trade.product_id,
        price=trade.price,
        **figures,
        best_bid=trim(bids[0][0]) if bids else None,
        best_bid_size=bids[0][1] if bids else None,
        best_ask=trim(asks[0][0]) if asks else None,
        best_ask_size=asks[0][1] if asks else None,
        side="sell" if trade.side == BUY else "buy",
        time=trade.time,
        trade_id=trade.trade_id,
        last_size=trade.size,
    )


def status(products: Sequence[Product]) -> Status:
    """What the `status` channel says: all that is traded, and what was until it was delisted."""
    traded = [each for each in products if each not in DELISTED]
    return Status(products=product_rows(traded), currencies=currency_rows(products))
