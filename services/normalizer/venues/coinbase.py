"""Coinbase Exchange's messages in the platform's words. Pure.

Sides: a `ticker` names the taker's side, a `match` and a REST trade name the maker's, which is the
other one. Prices and sizes stay the text the venue sent. Where the venue gives no usable time the
receive time stands in.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from itertools import pairwise
from typing import Annotated, Any

import msgspec

from services.common.domain.decimals import are_decimals, first_bad, is_decimal
from services.common.domain.levels import (
    Change,
    Unreadable,
    are_plain_changes,
    check_changes,
    is_row,
)
from services.common.subjects import StreamKey
from services.common.times import micros
from services.common.wire import Fields, Level, Stats24h, Trade, encode
from services.normalizer.venues.mapping import FastMapping, Mapped, MappedState, Unmappable, decode

_TAKER = {"buy": "sell", "sell": "buy"}
_ORDER_TYPES = frozenset({"received", "open", "done", "match", "change", "activate"})
# Of a row of `level3`: which cell says the time.
_ROW_TIME = {"open": 7, "done": 4, "match": 7, "change": 6, "noop": 3}
# What every reader of the log can hold; msgspec by itself takes integers of any size.
_MAX_ID = 2**63 - 1
_Id = Annotated[int, msgspec.Meta(ge=0, le=_MAX_ID)]
_is_number = re.compile(r"\d{1,19}", re.ASCII).fullmatch


class _Ticker(msgspec.Struct, gc=False):
    """Optional is what some recorded ticker lacked: the first one after subscribing, old ones.

    Whatever stands in an optional field is judged field by field, by `_Optional`.
    """

    type: str
    product_id: str
    sequence: _Id
    price: str
    open_24h: Any = None
    high_24h: Any = None
    low_24h: Any = None
    volume_24h: Any = None
    volume_30d: Any = None
    best_bid: Any = None
    best_bid_size: Any = None
    best_ask: Any = None
    best_ask_size: Any = None
    side: Any = None
    time: Any = None
    trade_id: Any = None
    last_size: Any = None


class _RestTicker(msgspec.Struct, gc=False):
    trade_id: _Id
    price: str
    size: Any = None
    bid: Any = None
    ask: Any = None
    volume: Any = None
    time: Any = None


class _Match(msgspec.Struct, gc=False):
    """A `match`, or a row of `GET /products/{id}/trades`, which has no `type` and no product."""

    trade_id: _Id
    price: str
    size: str
    side: str | None = None
    type: str | None = None
    product_id: str | None = None
    sequence: _Id | None = None
    time: Any = None


class _L2Update(msgspec.Struct, gc=False):
    type: str
    product_id: str
    changes: list[Change] | None
    time: Any = None


class _UntouchedL2Update(msgspec.Struct, gc=False):
    """An `_L2Update` whose changes stay the text the venue sent; any other has none."""

    type: str
    product_id: str
    changes: msgspec.Raw
    time: Any = None


class _UntouchedChanges(msgspec.Struct, gc=False):
    """Encoded as `Fields` with the same changes."""

    changes: msgspec.Raw


class _Order(msgspec.Struct, gc=False):
    """A message of `full` about one order."""

    type: str
    product_id: str
    sequence: _Id
    time: Any = None


class _Row(msgspec.Struct, array_like=True, gc=False):
    """A row of a book. REST adds the number of orders, which is read over and not written."""

    price: str
    size: str


class _Book(msgspec.Struct, gc=False):
    """A WebSocket `snapshot`, or `GET /products/{id}/book?level=2`, which has no `type`."""

    bids: list[_Row] | None
    asks: list[_Row] | None
    type: str | None = None
    product_id: str | None = None
    time: Any = None


class _OddBook(msgspec.Struct, gc=False):
    """A `_Book` some of whose rows are no rows."""

    bids: list[Any] | None
    asks: list[Any] | None
    type: str | None = None
    product_id: str | None = None
    time: Any = None


class _Kind(msgspec.Struct, gc=False):
    type: str | None = None


_kind = msgspec.json.Decoder(_Kind)
_ticker = msgspec.json.Decoder(_Ticker)
_rest_ticker = msgspec.json.Decoder(_RestTicker)
_match = msgspec.json.Decoder(_Match)
_raws = msgspec.json.Decoder(list[msgspec.Raw])
_order = msgspec.json.Decoder(_Order)
_cells = msgspec.json.Decoder(list[str | int | None])
_l2update = msgspec.json.Decoder(_L2Update)
_book = msgspec.json.Decoder(_Book)
_odd_book = msgspec.json.Decoder(_OddBook)


class CoinbaseMapper:
    """See `VenueMapper`."""

    fast_path: Mapping[str, FastMapping]

    def __init__(self) -> None:
        self.fast_path = {
            "book": FastMapping(_UntouchedL2Update, _untouched_changes),
            "trades": FastMapping(_Match, _match_fields),
            "ticker": FastMapping(_Ticker, _ticker_fields),
        }

    def fields(
        self,
        key: StreamKey,
        body: bytes,
        ts_recv: int,
        changes: list[tuple[str, str, str]] | None = None,
    ) -> Mapped:
        if key.channel == "book":
            if changes is not None:
                return _map_order(key, body, ts_recv, changes)
            return _map_changes(key, body, ts_recv)
        if key.channel == "trades":
            return Mapped(*_match_fields(key, decode(_match, body), ts_recv))
        if key.channel == "ticker":
            return _read_ticker(key, decode(_ticker, body), ts_recv)
        raise Unmappable("unknown_channel", key.channel)

    def state(self, key: StreamKey, body: bytes, ts_recv: int) -> MappedState:
        if key.channel == "book":
            return _book_state(key, body, ts_recv)
        if key.channel == "trades":
            return _trades_state(body, ts_recv)
        if key.channel == "ticker":
            return _ticker_state(key, body, ts_recv)
        raise Unmappable("unknown_channel", key.channel)


class _Optional:
    """Reads fields that a message may do without; what is no value of theirs is left out and told.

    Absent, null and empty mean that the venue does not say.
    """

    __slots__ = ("_message", "refused")

    def __init__(self, message: msgspec.Struct) -> None:
        self._message = message
        self.refused: list[Unmappable] = []

    def decimal(self, name: str) -> str | None:
        text: str | None = self._read(name, "bad_decimal", is_decimal)
        return text

    def side(self, name: str) -> str | None:
        side: str | None = self._read(name, "bad_side", _is_side)
        return side

    def number(self, name: str) -> int | None:
        return self._read(name, "bad_field", _is_id) or None

    def _read(self, name: str, code: str, good: Callable[[Any], bool]) -> Any:
        value = getattr(self._message, name)
        if value is None or value == "":
            return None
        if good(value):
            return value
        self.refused.append(Unmappable(code, f"{value!r}"[:80] + f" - at `$.{name}`"))
        return None


def _is_side(value: Any) -> bool:
    return isinstance(value, str) and value in _TAKER


def _is_id(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MAX_ID


def _ticker_fields(key: StreamKey, ticker: _Ticker, ts_recv: int) -> tuple[int, int | None, Fields]:
    """The plain case: every optional field that is there is readable."""
    mapped = _read_ticker(key, ticker, ts_recv)
    if mapped.refused:
        raise mapped.refused[0]
    return mapped.ts_event, mapped.venue_seq, mapped.fields


def _read_ticker(key: StreamKey, ticker: _Ticker, ts_recv: int) -> Mapped:
    _expect(key, "ticker", ticker.type, ticker.product_id)
    _check_decimals(ticker.price)
    time = micros(ticker.time) or ts_recv
    figures = (
        ticker.last_size,
        ticker.best_bid,
        ticker.best_bid_size,
        ticker.best_ask,
        ticker.best_ask_size,
        ticker.open_24h,
        ticker.high_24h,
        ticker.low_24h,
        ticker.volume_24h,
        ticker.volume_30d,
    )
    optional = _Optional(ticker)
    # Nearly always all of them are there: one search instead of ten.
    if not are_decimals(figures):
        figures = tuple(map(optional.decimal, _FIGURES))  # type: ignore[assignment]  # as many
    size, bid, bid_size, ask, ask_size, first, high, low, volume, volume_30d = figures
    trade_id, side = optional.number("trade_id"), optional.side("side")
    trade = None
    if trade_id is not None and size is not None:
        trade = Trade(ticker.price, size, side, trade_id, time)
    stats = Stats24h(first, high, low, volume)
    fields = Fields(
        last_trade=trade,
        best_bid=_level(bid, bid_size),
        best_ask=_level(ask, ask_size),
        stats_24h=stats if stats != _NO_STATS else None,
        volume_30d=volume_30d,
    )
    return Mapped(time, ticker.sequence, fields, tuple(optional.refused))


# In the order in which `_read_ticker` takes them.
_FIGURES = (
    *("last_size", "best_bid", "best_bid_size", "best_ask", "best_ask_size"),
    *("open_24h", "high_24h", "low_24h", "volume_24h", "volume_30d"),
)
_NO_STATS = Stats24h()


def _level(price: str | None, size: str | None) -> Level | None:
    return None if price is None else Level(price, size)


def _match_fields(key: StreamKey, match: _Match, ts_recv: int) -> tuple[int, int | None, Fields]:
    if match.type is not None or match.product_id is not None:
        _expect(key, "match", match.type, match.product_id)
    trade = _taker_trade(match, ts_recv)
    return trade.time, match.sequence, Fields(last_trade=trade)


def _taker_trade(match: _Match, ts_recv: int) -> Trade:
    taker = None
    if match.side:
        taker = _TAKER.get(match.side)
        if taker is None:
            raise Unmappable("bad_side", repr(match.side)[:80])
    _check_decimals(match.price, match.size)
    time = micros(match.time) or ts_recv
    return Trade(match.price, match.size, taker, match.trade_id, time)


def _map_changes(key: StreamKey, body: bytes, ts_recv: int) -> Mapped:
    update = decode(_l2update, body)
    _expect(key, "l2update", update.type, update.product_id)
    changes = update.changes or []
    _check_changes(changes)
    return Mapped(micros(update.time) or ts_recv, None, Fields(changes=changes))


def _untouched_changes(
    key: StreamKey, update: _UntouchedL2Update, ts_recv: int
) -> tuple[int, int | None, _UntouchedChanges]:
    _expect(key, "l2update", update.type, update.product_id)
    if not are_plain_changes(update.changes):
        raise Unmappable("bad_field", "changes are not of the most frequent form")
    return micros(update.time) or ts_recv, None, _UntouchedChanges(update.changes)


def _map_order(
    key: StreamKey, body: bytes, ts_recv: int, changes: list[tuple[str, str, str]]
) -> Mapped:
    """A message about one order. The ingestor, which holds the orders, says what it changed."""
    if body[:1] == b"[":
        return _map_order_row(key, body, ts_recv, changes)
    order = decode(_order, body)
    if order.type not in _ORDER_TYPES:
        raise Unmappable("unexpected_type", f"expected an order's message, got {order.type!r}")
    _expect(key, order.type, order.type, order.product_id)
    _check_changes(changes)
    return Mapped(micros(order.time) or ts_recv, order.sequence, Fields(changes=changes))


def _map_order_row(
    key: StreamKey, body: bytes, ts_recv: int, changes: list[tuple[str, str, str]]
) -> Mapped:
    """The same as a row of `level3`."""
    cells = decode(_cells, body)
    type_, product, sequence = (*cells[:3], None, None, None)[:3]
    time_at = _ROW_TIME.get(type_) if isinstance(type_, str) else None
    if time_at is None:
        raise Unmappable("unexpected_type", f"expected an order's row, got {type_!r}")
    if len(cells) <= time_at:
        raise Unmappable("bad_field", f"{type_} of {len(cells)} cells")
    if product != key.product:
        raise Unmappable("wrong_product", f"expected {key.product!r}, got {product!r}")
    number = str(sequence)
    if _is_number(number) is None or int(number) > _MAX_ID:
        raise Unmappable("bad_field", f"sequence {sequence!r} - at `$[2]`")
    _check_changes(changes)
    return Mapped(micros(cells[time_at]) or ts_recv, int(number), Fields(changes=changes))


def _check_changes(changes: list[Change]) -> None:
    """One bad row refuses all: without it there would be a wrong level in the book."""
    try:
        check_changes(changes)
    except Unreadable as error:
        raise Unmappable(error.code, error.detail) from error


def _ticker_state(key: StreamKey, body: bytes, ts_recv: int) -> MappedState:
    if decode(_kind, body).type is not None:
        mapped = _read_ticker(key, decode(_ticker, body), ts_recv)
        state = msgspec.Raw(encode(mapped.fields))
        return MappedState(mapped.ts_event, state, mapped.refused)
    ticker = decode(_rest_ticker, body)
    _check_decimals(ticker.price)
    optional = _Optional(ticker)
    size, volume = optional.decimal("size"), optional.decimal("volume")
    time = micros(ticker.time) or ts_recv
    trade = None
    if size is not None:
        # REST does not say who the taker was.
        trade = Trade(ticker.price, size, None, ticker.trade_id, time)
    fields = Fields(
        last_trade=trade,
        best_bid=_level(optional.decimal("bid"), None),
        best_ask=_level(optional.decimal("ask"), None),
        stats_24h=None if volume is None else Stats24h(volume=volume),
    )
    return MappedState(time, msgspec.Raw(encode(fields)), tuple(optional.refused))


def _trades_state(body: bytes, ts_recv: int) -> MappedState:
    refused: list[Unmappable] = []
    trades: list[Trade] = []
    for row in decode(_raws, body):
        # One that makes no sense must not cost those beside it.
        try:
            trades.append(_taker_trade(decode(_match, bytes(row)), ts_recv))
        except Unmappable as error:
            refused.append(error)
    trades.sort(key=_trade_id)
    time = trades[-1].time if trades else ts_recv
    return MappedState(time, msgspec.Raw(encode({"trades": trades})), tuple(refused))


def _trade_id(trade: Trade) -> int:
    return trade.trade_id


def _book_state(key: StreamKey, body: bytes, ts_recv: int) -> MappedState:
    book = _decode_book(body)
    if book.type is not None or book.product_id is not None:
        _expect(key, "snapshot", book.type, book.product_id)
    # A single row that makes no sense must not cost the whole book: the next snapshot would most
    # likely hold it too, and the stream would never come back.
    refused: list[Unmappable] = []
    bids = _best_first("bids", book.bids, refused, descending=True)
    asks = _best_first("asks", book.asks, refused, descending=False)
    return MappedState(
        micros(book.time) or ts_recv,
        msgspec.Raw(encode({"bids": bids, "asks": asks})),
        tuple(refused),
    )


def _decode_book(body: bytes) -> _Book | _OddBook:
    try:
        return decode(_book, body)
    except Unmappable:
        # Perhaps some rows are none; that costs them only.
        return decode(_odd_book, body)


def _best_first(
    side: str, rows: list[Any] | None, refused: list[Unmappable], *, descending: bool
) -> list[_Row]:
    good: list[_Row] = []
    for index, row in enumerate(rows or ()):
        if isinstance(row, _Row):
            good.append(row)
        elif is_row(row):
            good.append(_Row(row[0], row[1]))
        else:
            refused.append(Unmappable("bad_row", f"{row!r}"[:80] + f" - at `$.{side}[{index}]`"))
    if not are_decimals([row.price for row in good] + [row.size for row in good]):
        refused.extend(
            Unmappable("bad_row", f"{[row.price, row.size]} - at `$.{side}[{index}]`")
            for index, row in enumerate(good)
            if not (is_decimal(row.price) and is_decimal(row.size))
        )
        good = [row for row in good if is_decimal(row.price) and is_decimal(row.size)]
    prices = [Decimal(row.price) for row in good]
    if not _is_sorted(prices, descending=descending):
        good.sort(key=lambda row: Decimal(row.price), reverse=descending)
    return good


def _is_sorted(prices: Sequence[Decimal], *, descending: bool) -> bool:
    if descending:
        return all(a >= b for a, b in pairwise(prices))
    return all(a <= b for a, b in pairwise(prices))


def _expect(key: StreamKey, type_: str, got_type: str | None, got_product: str | None) -> None:
    if got_type != type_:
        raise Unmappable("unexpected_type", f"expected {type_!r}, got {got_type!r}")
    if got_product != key.product:
        raise Unmappable("wrong_product", f"expected {key.product!r}, got {got_product!r}")


def _check_decimals(*texts: str) -> None:
    if not are_decimals(texts):
        raise Unmappable("bad_decimal", repr(first_bad(texts))[:80])
