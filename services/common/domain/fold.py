"""Folding a stream's records into its state: what a `Snapshot` holds. Pure.

A fold is fed the records of one stream in order. What it already holds is ignored, so feeding a
record twice changes nothing. The state's shapes are those of `wire.Snapshot.state`.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import msgspec

from services.common.domain.book import Book
from services.common.stream import Position
from services.common.subjects import StreamKey
from services.common.wire import Fields, Reset, Tick, Trade, encode

# How many trades a trades stream's state keeps.
TRADES_KEPT = 100

_decode_fields = msgspec.json.Decoder(Fields).decode


class _Trades(msgspec.Struct):
    trades: list[Trade]


class BookState(msgspec.Struct):
    """A book's state; rows are (price, size, ...), best first."""

    bids: list[list[Any]]
    asks: list[list[Any]]


_decode_trades = msgspec.json.Decoder(_Trades).decode
_decode_book = msgspec.json.Decoder(BookState).decode


def check_state(channel: str, state: bytes) -> None:
    """Check that a state has its channel's shape; a book's prices are not looked at.

    Raises:
        UNREADABLE: it has not.
    """
    decoders = {"ticker": _decode_fields, "trades": _decode_trades}
    decoders.get(channel, _decode_book)(state)


class Fold:
    """The state of one stream after the record at `position` (None before the first)."""

    def __init__(self, key: StreamKey) -> None:
        self.key = key
        self.position: Position | None = None
        self._fields = Fields()
        self._trades: deque[Trade] = deque(maxlen=TRADES_KEPT)
        self._book = Book()

    @property
    def book(self) -> Book:
        return self._book

    def load(self, position: Position, state: bytes) -> None:
        """Replace everything by a state taken at `position`.

        Raises:
            UNREADABLE: `state` does not have the channel's shape.
            BadLevel: a book's row is malformed.
        """
        self._replace(state)
        self.position = Position(position.epoch, position.seq)

    def apply(self, record: Tick | Reset) -> bool:
        """Take a record in; False when it is not newer than what is held.

        Raises:
            BadLevel: a book's change is malformed; nothing changed.
            UNREADABLE: a reset's state has not the channel's shape; nothing changed.
        """
        position = Position(record.epoch, record.seq)
        if self.position is not None and position <= self.position:
            return False
        if self.position is not None and position.epoch != self.position.epoch:
            # Another numbering is another history: nothing of the former one may shine through.
            fresh = Fold(self.key)
            fresh.apply(record)
            self._fields, self._trades, self._book = fresh._fields, fresh._trades, fresh._book
        elif isinstance(record, Reset):
            # Without a new state the old one must not be kept by accident.
            self._replace(bytes(record.state) if record.state is not None else b"")
        elif self.key.channel == "ticker":
            self._merge(record.fields)
        elif self.key.channel == "trades":
            if record.fields.last_trade is not None:
                self._trades.append(record.fields.last_trade)
        else:
            self._book.apply(record.fields.changes or ())
        self.position = position
        return True

    def state(self, depth: int | None = None) -> bytes:
        """The state as JSON; `depth` limits a book to its best levels on each side."""
        if self.key.channel == "ticker":
            return encode(self._fields)
        if self.key.channel == "trades":
            return encode({"trades": list(self._trades)})
        return encode({"bids": self._book.bids(depth), "asks": self._book.asks(depth)})

    def _merge(self, fields: Fields) -> None:
        held = self._fields
        self._fields = Fields(
            last_trade=fields.last_trade or held.last_trade,
            best_bid=fields.best_bid or held.best_bid,
            best_ask=fields.best_ask or held.best_ask,
            stats_24h=fields.stats_24h or held.stats_24h,
            volume_30d=fields.volume_30d or held.volume_30d,
        )

    def _replace(self, state: bytes) -> None:
        if self.key.channel == "ticker":
            self._fields = _decode_fields(state) if state else Fields()
        elif self.key.channel == "trades":
            trades = _decode_trades(state).trades if state else []
            self._trades = deque(trades, maxlen=TRADES_KEPT)
        else:
            book = _decode_book(state) if state else BookState([], [])
            self._book.replace(book.bids, book.asks)
