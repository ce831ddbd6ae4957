"""A local order book, kept from a verified stream."""

from __future__ import annotations

import re
from bisect import bisect_left, insort
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from market_data_fanout_client.messages import Level, Side

# As the platform reads prices and sizes: plain digits, rarely with an exponent (`5.1e-7`); no sign,
# and no number of absurd length.
_is_decimal = re.compile(r"[0-9]{1,40}(?:\.[0-9]{1,40})?(?:[eE][+-]?[0-9]{1,2})?").fullmatch


def to_decimal(text: str) -> Decimal:
    """The value of `text`, exactly. Raises ValueError when it is no decimal number."""
    if _is_decimal(text) is None:
        raise ValueError(f"not a decimal number: {text[:80]!r}")
    return Decimal(text)


@dataclass(frozen=True, slots=True)
class Depth:
    """The best levels of a book, best first."""

    bids: tuple[Level, ...]
    asks: tuple[Level, ...]


class _Side:
    """Levels keyed by value, because a venue writes one price in several ways."""

    def __init__(self, levels: Iterable[Level] = ()) -> None:
        self.levels = {to_decimal(level.price): level for level in levels}
        self.prices = sorted(self.levels)

    def set(self, price: str, size: str) -> None:
        key = to_decimal(price)
        if to_decimal(size) == 0:
            # Removing a level that is not held is normal: it was born and died in one batch.
            if self.levels.pop(key, None) is not None:
                del self.prices[bisect_left(self.prices, key)]
            return
        if key not in self.levels:
            insort(self.prices, key)
        self.levels[key] = Level(price, size)


class OrderBook:
    """One product's book.

    `valid` tells whether it may be believed: False before the first snapshot, after a reset, and
    from a break of the chain until the snapshot that heals it. An invalid book keeps its last
    levels for display.
    """

    def __init__(self) -> None:
        self.valid = False
        self.epoch: int | None = None
        self.seq: int | None = None
        self._bids = _Side()
        self._asks = _Side()

    @property
    def best_bid(self) -> Level | None:
        return self._bids.levels[self._bids.prices[-1]] if self._bids.prices else None

    @property
    def best_ask(self) -> Level | None:
        return self._asks.levels[self._asks.prices[0]] if self._asks.prices else None

    @property
    def spread(self) -> Decimal | None:
        """Best ask less best bid; negative in a crossed book."""
        if not self._bids.prices or not self._asks.prices:
            return None
        return self._asks.prices[0] - self._bids.prices[-1]

    def depth(self, n: int | None = None) -> Depth:
        """The best `n` levels of each side; all of them without `n`."""
        bids, asks = self._bids, self._asks
        count = n if n is not None else max(len(bids.prices), len(asks.prices))
        return Depth(
            tuple(bids.levels[price] for price in reversed(bids.prices[-count:] if count else [])),
            tuple(asks.levels[price] for price in asks.prices[:count]),
        )

    def __len__(self) -> int:
        return len(self._bids.prices) + len(self._asks.prices)

    def replace(self, epoch: int, seq: int, bids: Iterable[Level], asks: Iterable[Level]) -> None:
        self._bids, self._asks = _Side(bids), _Side(asks)
        self.epoch, self.seq, self.valid = epoch, seq, True

    def apply(self, epoch: int, seq: int, changes: Iterable[tuple[Side, str, str]]) -> None:
        for side, price, size in changes:
            (self._bids if side == "buy" else self._asks).set(price, size)
        self.epoch, self.seq = epoch, seq
