"""Changes and rows of a book as venues send them, and whether they can be read. Pure.

The ingestor believes its book stands on what it passes on, and the normalizer has to read that:
both ask here, so that what one lets through the other understands. A change that cannot be read
costs the update, since the book without it would be wrong. A row of a whole book that cannot be
read costs that row: the next snapshot would hold it too, and there would never be a book.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import msgspec

from services.common.domain.decimals import POSSESSIVE_PATTERN as DECIMAL
from services.common.domain.decimals import are_decimals, first_bad, is_decimal
from services.common.wire import UNREADABLE, encode

# Side, price, new size.
Change = tuple[str, str, str]
SIDES = frozenset({"buy", "sell"})

_are_changes = re.compile(f"(?:(?:buy|sell) {DECIMAL} {DECIMAL} )*+").fullmatch
# As JSON without white space, which is how the venue sends it, and how it is written. One search
# costs a fraction of decoding, and is made for every update.
_are_changes_json = re.compile(
    rf'\[(?:\["(?:buy|sell)","{DECIMAL}","{DECIMAL}"\](?:,(?=\[)|(?=\])))*+\]'.encode()
).fullmatch
_decode_changes = msgspec.json.Decoder(list[Change] | None).decode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
# What is told of something unreadable, characters.
_SHOWN = 200


class Unreadable(ValueError):
    """Changes or rows that make no sense; `code` is one word of few, for metrics."""

    def __init__(self, code: str, detail: str) -> None:
        self.code = code
        self.detail = detail[:_SHOWN]
        super().__init__(f"{code}: {self.detail}")


def are_plain_changes(text: bytes | msgspec.Raw) -> bool:
    """Whether the JSON `text` is a list of changes in the form in which nearly all come."""
    return _are_changes_json(text) is not None


def check_changes(changes: Sequence[Change]) -> None:
    """Raise Unreadable unless every change has a side, a price and a size."""
    text = " ".join(chain.from_iterable(changes)) + " "
    # The count of spaces says that no cell holds one itself.
    if changes and (_are_changes(text) is None or text.count(" ") != 3 * len(changes)):
        raise _first_bad(changes)


def check_changes_json(text: bytes | msgspec.Raw) -> None:
    """Raise Unreadable unless `text` is JSON of changes that `check_changes` takes, or null."""
    if _are_changes_json(text) is not None:
        return
    try:
        changes = _decode_changes(text)
    except (ValueError, RecursionError) as error:
        raise Unreadable("bad_field", f"changes: {error}") from error
    check_changes(changes or [])


def check_rows_json(text: bytes | msgspec.Raw) -> None:
    """Raise Unreadable unless `text`, which is JSON, is a list of rows, or null: an empty side."""
    begin = bytes(memoryview(text)[:80])
    if begin[:1] != b"[" and begin != b"null":
        raise Unreadable("bad_field", f"rows: {begin!r}")


def readable_rows(body: bytes) -> bytes:
    """The same book, with null for each row that holds a number no reader can (`1e400`).

    For whoever cannot decode a book: such a row costs itself, like any other that is none.

    Raises:
        UNREADABLE: it is no JSON object.
    """
    fields: dict[str, Any] = _decode_fields(body)
    for side in ("bids", "asks"):
        try:
            rows = _decode_list(fields.get(side, b""))
        except UNREADABLE:
            continue
        fields[side] = [row if _is_held(row) else None for row in rows]
    return encode(fields)


def _is_held(value: msgspec.Raw) -> bool:
    try:
        msgspec.json.decode(value)
    except UNREADABLE:
        return False
    return True


def is_row(row: Any) -> bool:
    """Whether a decoded row begins with a price and a size."""
    return (
        isinstance(row, list | tuple)
        and len(row) >= 2
        and is_decimal(row[0])
        and is_decimal(row[1])
    )


def _first_bad(changes: Iterable[Change]) -> Unreadable:
    for index, (side, *cells) in enumerate(changes):
        if side not in SIDES:
            return Unreadable("bad_side", f"{side!r} - at `$.changes[{index}]`")
        if not are_decimals(cells):
            return Unreadable("bad_decimal", f"{first_bad(cells)!r} - at `$.changes[{index}]`")
    raise AssertionError("called without a bad change")
