"""An aggregated (level 2) order book: price to size, keyed by Decimal. Pure.

Prices are keyed by value, because one venue writes the same price in several ways ("9289.70" on
its WebSocket, "9289.7" over REST); the text of the newest message is kept for output.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from itertools import islice

from sortedcontainers import SortedDict

from services.common.domain.decimals import are_decimals, is_decimal

Row = Sequence[str]
BUY = "buy"
SELL = "sell"


class BadLevel(ValueError):
    """A price or size that is not a finite decimal number, or a side that does not exist."""

    def __init__(self, side: str, price: str, size: str) -> None:
        self.side = side
        self.price = price
        self.size = size
        super().__init__(f"not a level: side {side!r}, price {price!r}, size {size!r}")


class Book:
    """Two sides of a book. Sizes are absolute; zero removes the level, also one never seen."""

    def __init__(self) -> None:
        # Bids are keyed by the negated price, so that both sides iterate best first.
        self._bids: SortedDict[Decimal, tuple[str, str]] = SortedDict()
        self._asks: SortedDict[Decimal, tuple[str, str]] = SortedDict()

    def replace(self, bids: Iterable[Row], asks: Iterable[Row]) -> None:
        """Drop everything and hold these `[price, size, ...]` rows instead.

        Raises:
            BadLevel: a row is malformed; the book is unchanged.
        """
        new_bids = dict(_levels([(BUY, *_cells(row, 2)) for row in bids]))
        new_asks = dict(_levels([(SELL, *_cells(row, 2)) for row in asks]))
        self._bids = SortedDict({k: v for k, v in new_bids.items() if v is not None})
        self._asks = SortedDict({k: v for k, v in new_asks.items() if v is not None})

    def apply(self, changes: Iterable[Row]) -> None:
        """Apply `[side, price, new_size]` changes in order, all or none.

        Raises:
            BadLevel: a change is malformed; the book is unchanged.
        """
        rows = [_cells(change, 3) for change in changes]
        for row, (key, level) in zip(rows, _levels(rows), strict=True):
            held = self._bids if row[0] == BUY else self._asks
            if level is None:
                # Removing a level that is not held is normal: it was born and died in one batch.
                held.pop(key, None)
            else:
                held[key] = level

    def bids(self, depth: int | None = None) -> list[tuple[str, str]]:
        """(price, size) of the best `depth` bids, best first; all of them with None."""
        return list(islice(self._bids.values(), depth))

    def asks(self, depth: int | None = None) -> list[tuple[str, str]]:
        """(price, size) of the best `depth` asks, best first; all of them with None."""
        return list(islice(self._asks.values(), depth))

    def size_at(self, side: str, price: Decimal) -> str | None:
        """The size of a level; None when there is none."""
        key = price.copy_negate() if side == BUY else price
        level = (self._bids if side == BUY else self._asks).get(key)
        return None if level is None else level[1]

    def better_than(self, side: str, price: Decimal, most: int) -> list[Decimal]:
        """Prices of at most `most` levels of a side that are better than `price`, best first."""
        if side == BUY:
            keys = self._bids.irange(maximum=price.copy_negate(), inclusive=(True, False))
            return [key.copy_negate() for key in islice(keys, most)]
        return list(islice(self._asks.irange(maximum=price, inclusive=(True, False)), most))

    @property
    def crossed(self) -> bool:
        """Whether the best bid is at or above the best ask."""
        if not self._bids or not self._asks:
            return False
        return bool(-self._bids.peekitem(0)[0] >= self._asks.peekitem(0)[0])

    def __len__(self) -> int:
        return len(self._bids) + len(self._asks)

    def __eq__(self, other: object) -> bool:
        """Same levels by value, however they are written."""
        if not isinstance(other, Book):
            return NotImplemented
        return self._by_value() == other._by_value()

    __hash__ = None  # type: ignore[assignment]  # mutable, so it must not be hashed

    def _by_value(self) -> tuple[dict[Decimal, Decimal], dict[Decimal, Decimal]]:
        return (
            {price: Decimal(size) for price, (_, size) in self._bids.items()},
            {price: Decimal(size) for price, (_, size) in self._asks.items()},
        )


def _cells(row: Row, count: int) -> Row:
    """The first `count` cells of a row; what a venue adds behind them is not of interest."""
    if len(row) < count:
        raise BadLevel("", *(str(cell) for cell in (*row, "", "")[:2]))
    return row[:count]


def _levels(rows: Sequence[Row]) -> list[tuple[Decimal, tuple[str, str] | None]]:
    """Key and value of each `[side, price, size]`; the value is None when the size is zero.

    Raises:
        BadLevel: one of them is malformed.
    """
    if not are_decimals([cell for row in rows for cell in row[1:]]):
        raise next(BadLevel(*map(str, row)) for row in rows if not all(map(is_decimal, row[1:])))
    levels: list[tuple[Decimal, tuple[str, str] | None]] = []
    for side, price, size in rows:
        # Unlike `-`, this does not round to the context's 28 digits.
        if side == BUY:
            key = Decimal(price).copy_negate()
        elif side == SELL:
            key = Decimal(price)
        else:
            raise BadLevel(side, price, size)
        levels.append((key, (price, size) if Decimal(size) else None))
    return levels
