"""What a message does to the levels of a book. Pure."""

from __future__ import annotations

import re

from services.common.domain.levels import Change, Unreadable, are_plain_changes, check_changes
from services.common.subjects import StreamKey
from services.common.times import micros
from services.common.wire import Fields
from services.normalizer.venues.coinbase.messages import (
    MAX_ID,
    L2Update,
    OrderMessage,
    UntouchedChanges,
    UntouchedL2Update,
)
from services.normalizer.venues.coinbase.trades_and_tickers import expect
from services.normalizer.venues.mapping import Mapped, Unmappable, decode

_ORDER_TYPES = frozenset({"received", "open", "done", "match", "change", "activate"})
# Of a row of `level3`: which cell says the time.
_ROW_TIME = {"open": 7, "done": 4, "match": 7, "change": 6, "noop": 3}
_is_number = re.compile(r"\d{1,19}", re.ASCII).fullmatch


def map_changes(key: StreamKey, body: bytes, ts_recv: int) -> Mapped:
    """What an `l2update` says. Raises Unmappable when a single row is none."""
    update = decode(L2Update, body)
    expect(key, "l2update", update.type, update.product_id)
    changes = update.changes or []
    _check_changes(changes)
    return Mapped(micros(update.time) or ts_recv, None, Fields(changes=changes))


def untouched_changes(
    key: StreamKey, update: UntouchedL2Update, ts_recv: int
) -> tuple[int, int | None, UntouchedChanges]:
    """The same for the fast path, the changes staying the venue's bytes."""
    expect(key, "l2update", update.type, update.product_id)
    if not are_plain_changes(update.changes):
        raise Unmappable("bad_field", "changes are not of the most frequent form")
    return micros(update.time) or ts_recv, None, UntouchedChanges(update.changes)


def map_order(
    key: StreamKey, body: bytes, ts_recv: int, changes: list[tuple[str, str, str]]
) -> Mapped:
    """A message about one order. The ingestor, which holds the orders, says what it changed."""
    if body[:1] == b"[":
        return _map_order_row(key, body, ts_recv, changes)
    order = decode(OrderMessage, body)
    if order.type not in _ORDER_TYPES:
        raise Unmappable("unexpected_type", f"expected an order's message, got {order.type!r}")
    expect(key, order.type, order.type, order.product_id)
    _check_changes(changes)
    return Mapped(micros(order.time) or ts_recv, order.sequence, Fields(changes=changes))


def _map_order_row(
    key: StreamKey, body: bytes, ts_recv: int, changes: list[tuple[str, str, str]]
) -> Mapped:
    """The same as a row of `level3`."""
    cells = decode(list[str | int | None], body)
    type_, product, sequence = (*cells[:3], None, None, None)[:3]
    time_at = _ROW_TIME.get(type_) if isinstance(type_, str) else None
    if time_at is None:
        raise Unmappable("unexpected_type", f"expected an order's row, got {type_!r}")
    if len(cells) <= time_at:
        raise Unmappable("bad_field", f"{type_} of {len(cells)} cells")
    if product != key.product:
        raise Unmappable("wrong_product", f"expected {key.product!r}, got {product!r}")
    number = str(sequence)
    if _is_number(number) is None or int(number) > MAX_ID:
        raise Unmappable("bad_field", f"sequence {sequence!r} - at `$[2]`")
    _check_changes(changes)
    return Mapped(micros(cells[time_at]) or ts_recv, int(number), Fields(changes=changes))


def _check_changes(changes: list[Change]) -> None:
    """One bad row refuses all: without it there would be a wrong level in the book."""
    try:
        check_changes(changes)
    except Unreadable as error:
        raise Unmappable(error.code, error.detail) from error
