"""The book that was passed on, kept beside its stream so that it can be compared. Pure.

A level 2 feed has no number, so a lost update leaves a wrong level and no trace. The replica folds
what a stream has written and says which levels another image of the book contradicts. Folding costs
more than passing on, so updates are only put aside when they come and folded together later.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import Any

import msgspec

from services.common.domain.book import BUY, SELL, BadLevel, Book
from services.common.domain.decimals import to_decimal
from services.common.domain.levels import Change, is_row, readable_rows
from services.common.wire import UNREADABLE
from services.ingestor.integrity.suspicion import Key, TopCheck, told_by

# Updates put aside before the replica is given up until the next base.
_MAX_PENDING = 20_000


class _Update(msgspec.Struct, gc=False):
    changes: list[Change] | None


class _Whole(msgspec.Struct, gc=False):
    """Rows are price, size, and over REST the number of orders; null is an empty side."""

    bids: list[Any] | None
    asks: list[Any] | None


_decode_update = msgspec.json.Decoder(_Update).decode
_decode_whole = msgspec.json.Decoder(_Whole).decode

# Bodies put aside, in order; True marks a whole book.
Batch = list[tuple[bool, bytes]]


class BookReplica:
    """`base` and `update` are for the stream; the rest is for whoever compares.

    `pop_updates` and `fold` are two calls, so that folding can be done in another thread while the
    stream goes on; who folds does so one batch after the other.
    """

    def __init__(self) -> None:
        self._book = Book()
        self._pending: Batch = []
        self._based = False
        self._touched: set[Key] | None = None
        self._top = TopCheck()
        # The newest ticker and match of the product, for whoever judges; b"" is none.
        self.ticker = b""
        self.trade = b""
        # Counts bases: a comparison that spans one says nothing.
        self.bases = 0

    # ---- the stream's side

    def base(self, body: bytes) -> None:
        """A whole book was passed on: a WebSocket `snapshot`, or REST level 2."""
        self.bases += 1
        self._based = True
        self._pending = [(True, body)]

    def update(self, body: bytes) -> None:
        """An `l2update` was passed on."""
        if not self._based:
            return
        if len(self._pending) >= _MAX_PENDING:
            self.drop()
            return
        self._pending.append((False, body))

    def drop(self) -> None:
        """What was passed on cannot be followed any more; the next base begins anew."""
        self._based = False
        self._pending = []
        self.bases += 1

    # ---- the comparing side

    @property
    def usable(self) -> bool:
        """Whether there is a book to compare."""
        return self._based

    def pop_updates(self) -> Batch:
        """What waits to be folded; hand it to `fold`."""
        batch, self._pending = self._pending, []
        return batch

    @property
    def lost(self) -> bool:
        """Whether there was a book, and only another base gives one again."""
        return self.bases > 0 and not self._based

    def fold(self, batch: Batch) -> None:
        """Fold a batch; an update that makes no sense ends the replica until the next base.

        Rows of a whole book that make no sense are left out, as every reader leaves them out.
        """
        changes: dict[tuple[str, str], str] = {}
        try:
            for whole, body in batch:
                if whole:
                    book = _whole(body)
                    changes.clear()
                    self._book.replace(_texts(book.bids), _texts(book.asks))
                    self._top.rebased()
                else:
                    for side, price, size in _decode_update(body).changes or ():
                        # Last told, last applied: one price may be written in two ways.
                        changes.pop((side, price), None)
                        changes[side, price] = size
            rows = [(side, price, size) for (side, price), size in changes.items()]
            self._book.apply(rows)
            touched = {(side, Decimal(price)) for side, price, _ in rows}
            self._top.touch(touched)
            if self._touched is not None:
                self._touched |= touched
        except (*UNREADABLE, BadLevel):
            self._based = False

    def pop_evidence(self) -> list[bytes]:
        """What came beside the book since the last time; hand it to `judge`."""
        evidence = [body for body in (self.ticker, self.trade) if body]
        self.ticker = self.trade = b""
        return evidence

    def judge(self, evidence: list[bytes]) -> str | None:
        """What tickers and trades contradict in the book, as of the last `fold`.

        To be called at even intervals of seconds: between two calls is a window of `TopCheck`.
        """
        told = [each for body in evidence for each in told_by(body)]
        found = self._top.judge(self._book, told)
        return found if self._based else None

    @property
    def crossed(self) -> bool:
        """Whether the best bid is at or above the best ask, as of the last `fold`."""
        return self._based and self._book.crossed

    def watch(self) -> None:
        """From the last `fold` on, remember which levels change: nothing is said about those."""
        self._touched = set()

    def unwatch(self) -> None:
        self._touched = None

    def contradicted(self, body: bytes) -> dict[Key, tuple[str, str]]:
        """Levels that an image taken since `watch` has otherwise: (size here, size there).

        Levels that changed since are left out, and so are those beyond the image's worst price,
        because an image may hold the best levels only.

        Raises:
            UNREADABLE: `body` is no book.
        """
        image = _whole(body)
        found: dict[Key, tuple[str, str]] = {}
        touched = self._touched or set()
        for side, rows, held in (
            (BUY, _texts(image.bids), self._book.bids()),
            (SELL, _texts(image.asks), self._book.asks()),
        ):
            there = _by_value(rows)
            if not there:
                continue
            here = _by_value(held)
            worst = min(there) if side == BUY else max(there)
            for price in there.keys() | here.keys():
                beyond = price < worst if side == BUY else price > worst
                ours, theirs = here.get(price, _NOTHING), there.get(price, _NOTHING)
                if ours != theirs and not beyond and (side, price) not in touched:
                    found[side, price] = (f"{ours:f}", f"{theirs:f}")
        return found


_NOTHING = Decimal(0)


def _whole(body: bytes) -> _Whole:
    try:
        return _decode_whole(body)
    except UNREADABLE:
        return _decode_whole(readable_rows(body))


def _texts(rows: Iterable[Any] | None) -> list[tuple[str, str]]:
    return [(row[0], row[1]) for row in rows or () if is_row(row)]


def _by_value(rows: Iterable[tuple[str, str]]) -> dict[Decimal, Decimal]:
    return {to_decimal(price): to_decimal(size) for price, size in rows}
