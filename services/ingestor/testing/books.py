"""Books as the raw log tells them, to compare with the truth."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

import msgspec

from services.common.domain.book import Book
from services.common.stream.broker import Broker
from services.common.testing.waiting import eventually
from services.common.wire import RawRecord, ResyncBody
from services.ingestor.testing.rig import raw_records
from tools.simulator import SimulatedExchange


class _Update(msgspec.Struct):
    changes: list[tuple[str, str, str]]


class _Whole(msgspec.Struct):
    bids: list[list[str | int]]
    asks: list[list[str | int]]


def folded(records: Iterable[RawRecord]) -> Book:
    """The book after these raw records of a book stream."""
    book = Book()
    for record in records:
        if record.kind == "resync":
            message = msgspec.json.decode(record.body, type=ResyncBody).message
            whole = msgspec.json.decode(message, type=_Whole)
            book.replace(
                [[str(cell) for cell in row] for row in whole.bids],
                [[str(cell) for cell in row] for row in whole.asks],
            )
        elif record.kind == "frame":
            changes = record.changes
            if changes is None:
                changes = msgspec.json.decode(record.body, type=_Update).changes
            book.apply(changes)
    return book


def true_book(exchange: SimulatedExchange, product: str) -> Book:
    """The model's book now."""
    state = exchange.state(product)
    book = Book()
    book.replace([row[:2] for row in state.bids], [row[:2] for row in state.asks])
    return book


async def check_books(broker: Broker, exchange: SimulatedExchange, products: Sequence[str]) -> None:
    """The folded log equals the model's book, once every change was sent.

    The market must stand still (unpaced or paused).
    """
    exchange.settle()
    for product in products:
        await eventually(partial(_holds, broker, product, true_book(exchange, product)), "the book")


async def _holds(broker: Broker, product: str, truth: Book) -> bool:
    return folded(await raw_records(broker, "book", product)) == truth
