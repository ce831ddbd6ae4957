"""Coinbase's `level3` channel: every order's messages as compact arrays. Pure.

    ["open","BTC-USD","137212619516","6e3d...","sell","84737.58","0.01","2026-07-07T22:58:17.050195Z"]

The rows of a product count `sequence` up by one, like the messages of `full`; what does not touch
the book is a `noop`. A match has no trade id, so trades have to come from `matches`. The first
frame is an object, the schema, which names the cells of each type of row.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import msgspec

from services.common.times import micros
from services.common.wire import UNREADABLE
from services.ingestor.venues.base import (
    MAX_NUMBER,
    Event,
    Kind,
    MalformedFrame,
    OrderAction,
    OrderEvent,
    decimal_text,
    decimal_value,
)

# The documented cells. Whoever reads a raw record sees the row without its schema, so these are
# the only ones that are taken; cells that are added behind them do no harm.
CELLS: dict[str, tuple[str, ...]] = {
    "open": ("type", "product_id", "sequence", "order_id", "side", "price", "size", "time"),
    "done": ("type", "product_id", "sequence", "order_id", "time"),
    "match": (
        *("type", "product_id", "sequence", "maker_order_id", "taker_order_id"),
        *("price", "size", "time"),
    ),
    "change": ("type", "product_id", "sequence", "order_id", "price", "size", "time"),
    "noop": ("type", "product_id", "sequence", "time"),
}
_LENGTHS = {name: len(cells) for name, cells in CELLS.items()}

_Row = list[str | int | None]


class _Schema(msgspec.Struct):
    schema: dict[str, list[str]]


_decode_row = msgspec.json.Decoder(_Row).decode
_decode_schema = msgspec.json.Decoder(_Schema).decode
_is_sequence = re.compile(r"[1-9][0-9]{0,18}", re.ASCII).fullmatch


def differences(schema: Mapping[str, Sequence[str]]) -> list[str]:
    """Which documented types of rows a schema describes differently from `CELLS`."""
    return [
        f"{name}: {list(schema.get(name, ()))}"
        for name, cells in CELLS.items()
        if tuple(schema.get(name, ()))[: len(cells)] != cells
    ]


class Level3:
    """Reads the channel's frames. Rows are refused while the venue's schema is another one."""

    def __init__(self) -> None:
        self._foreign = ""

    def schema(self, frame: bytes) -> Event:
        """Take note of the schema.

        Raises:
            MalformedFrame: it describes rows that are not understood.
        """
        try:
            announced = _decode_schema(frame).schema
        except UNREADABLE as error:
            raise MalformedFrame("bad_field", str(error)) from error
        self._foreign = "; ".join(differences(announced))
        if self._foreign:
            raise MalformedFrame("unknown_schema", self._foreign)
        return Event(Kind.SUBSCRIBED, "")

    def row(self, frame: bytes) -> Event:
        """Read a row.

        Raises:
            MalformedFrame: it is not what the schema says. Its number is then missing, and the
                book is built anew.
        """
        if self._foreign:
            raise MalformedFrame("unknown_schema", self._foreign)
        try:
            row = _decode_row(frame)
        except msgspec.ValidationError as error:
            raise MalformedFrame("bad_field", str(error)) from error
        except UNREADABLE as error:
            raise MalformedFrame("bad_json", str(error)) from error
        name = row[0] if row else None
        length = _LENGTHS.get(name) if isinstance(name, str) else None
        if length is None:
            raise MalformedFrame("bad_field", f"a row of type {name!r}")
        if len(row) < length:
            raise MalformedFrame("missing_field", f"{name} with {len(row)} cells, not {length}")
        product = _text(row, 1)
        number = str(row[2])
        if _is_sequence(number) is None or (sequence := int(number)) > MAX_NUMBER:
            raise MalformedFrame("bad_field", f"{name} with sequence {row[2]!r}")
        told = row[length - 1]
        time = micros(told) or 0
        return Event(Kind.ORDER, product, sequence, time, order=_order(row, name, sequence, time))


def _order(row: _Row, name: object, sequence: int, time: int) -> OrderEvent:
    if name == "noop":
        return OrderEvent(sequence, time, OrderAction.NONE)
    order_id = _text(row, 3)
    if name == "open":
        side = row[4]
        if side not in ("buy", "sell"):
            raise MalformedFrame("bad_field", f"open of side {side!r}")
        price, size = decimal_text(row[5]), decimal_value(row[6])
        return OrderEvent(sequence, time, OrderAction.OPEN, order_id, str(side), price, size)
    if name == "done":
        return OrderEvent(sequence, time, OrderAction.DONE, order_id)
    if name == "match":
        size = decimal_value(row[6])
        return OrderEvent(sequence, time, OrderAction.MATCH, order_id, size=size)
    # The price that the order has from now on; a market order has none and does not rest.
    price = decimal_text(row[4]) if row[4] else ""
    size = decimal_value(row[5])
    return OrderEvent(sequence, time, OrderAction.CHANGE, order_id, price=price, size=size)


def _text(row: _Row, index: int) -> str:
    cell = row[index]
    if not isinstance(cell, str) or not cell:
        raise MalformedFrame("missing_field", f"{row[0]} with {cell!r} as cell {index}")
    return cell
