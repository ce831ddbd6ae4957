"""Is a book right at its top? Judged by what tickers and trades say beside it. Pure.

A lost level 2 update leaves no trace in its own channel, but every ticker names the best bid and
ask, and a trade has gone through all that was better than its price. Channels overtake each other,
so only levels are judged that nothing has happened to for a whole window before the evidence came
and a whole window after it: such a level was there, as it is, when the ticker was made.
"""

from __future__ import annotations

from collections import deque
from decimal import Decimal
from typing import NamedTuple

import msgspec

from services.common.domain.book import BUY, SELL, Book
from services.common.domain.decimals import is_decimal
from services.common.wire import UNREADABLE

Key = tuple[str, Decimal]

# Levels that are looked at beyond the best price that is told.
_BEYOND = 50
_WINDOWS = 3


class _Ticker(msgspec.Struct, gc=False):
    """A taker's `side` is a ticker's, a maker's one a match's."""

    type: str = ""
    price: str | None = None
    side: str | None = None
    best_bid: str | None = None
    best_bid_size: str | None = None
    best_ask: str | None = None
    best_ask_size: str | None = None


_decode = msgspec.json.Decoder(_Ticker).decode


class Told(NamedTuple):
    """What a message says of one side: its best level, and the price up to which it was used up.

    `best` and `size` are None where it does not say; `through` is the price of a trade.
    """

    side: str
    best: Decimal | None
    size: Decimal | None
    through: Decimal | None


def told_by(body: bytes) -> list[Told]:
    """What a ticker or a match says; nothing, where it cannot be read."""
    try:
        said = _decode(body)
    except UNREADABLE:
        return []
    price = _number(said.price)
    taker = said.side
    if said.type == "match":
        taker = {BUY: SELL, SELL: BUY}.get(said.side or "")
    bid, ask = (said.best_bid, said.best_bid_size), (said.best_ask, said.best_ask_size)
    return [
        Told(side, _number(best), _number(size), price if taker == other else None)
        for side, other, (best, size) in ((BUY, SELL, bid), (SELL, BUY, ask))
    ]


class TopCheck:
    """One book's windows: `touch` what changes in the current one, `judge` at its end."""

    def __init__(self) -> None:
        self._touched: deque[set[Key]] = deque([set()], maxlen=_WINDOWS)
        self._told: list[Told] = []
        self._whole = True

    def rebased(self) -> None:
        """A new base: what was told before is not about it."""
        self._touched.clear()
        self._touched.append(set())
        self._told = []
        self._whole = False

    def touch(self, keys: set[Key]) -> None:
        """These levels were changed."""
        self._touched[-1] |= keys

    def judge(self, book: Book, told: list[Told]) -> str | None:
        """The window is over, in which this was `told`; what of the one before contradicts."""
        found = self._contradiction(book)
        # In the window of a base its order against what was told is not known.
        self._told = told if self._whole else []
        self._whole = True
        self._touched.append(set())
        return found

    def _contradiction(self, book: Book) -> str | None:
        for told in self._told:
            for limit in (told.best, told.through):
                if limit is None:
                    continue
                for price in book.better_than(told.side, limit, _BEYOND):
                    if self._still(told.side, price):
                        return f"{told.side} {price:f} stands before {limit:f}"
            if told.best is None or not self._still(told.side, told.best):
                continue
            held = book.size_at(told.side, told.best)
            if held is None:
                return f"{told.side} {told.best:f} is the best, and is missing"
            if told.size is not None and Decimal(held) != told.size:
                return f"{told.side} {told.best:f} is {held}, and {told.size:f} is told"
        return None

    def _still(self, side: str, price: Decimal) -> bool:
        return not any((side, price) in touched for touched in self._touched)


def _number(text: str | None) -> Decimal | None:
    """A price or size above zero."""
    if text is None or not is_decimal(text):
        return None
    return Decimal(text) or None
