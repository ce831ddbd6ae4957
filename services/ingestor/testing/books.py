"""Books as the raw log tells them, to compare with the truth."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from services.common.domain.book import Book
from services.common.wire import RawRecord, ResyncBody


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
