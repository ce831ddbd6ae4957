"""What a ticker or a match says, and the checks that all messages share. Pure."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any

import msgspec

from services.common.domain.decimals import are_decimals, first_bad, is_decimal
from services.common.subjects import StreamKey
from services.common.times import micros
from services.common.wire import Fields, Level, Stats24h, Trade, encode
from services.normalizer.venues.coinbase.messages import MAX_ID, MatchMessage, TickerMessage
from services.normalizer.venues.mapping import Mapped, Unmappable, decode

_TAKER = {"buy": "sell", "sell": "buy"}


class OptionalFields:
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
    return type(value) is int and 0 <= value <= MAX_ID


def decode_ticker[T: msgspec.Struct](kind: type[T], body: bytes) -> T:
    """Decode a ticker; a number that no reader can hold (`1e400`) costs its own field only.

    Raises:
        Unmappable: as `decode` does.
    """
    try:
        return decode(kind, body)
    except Unmappable:
        fields = decode(dict[str, msgspec.Raw], body)
        told = {name: raw if _is_held(raw) else _NOT_HELD for name, raw in fields.items()}
        return decode(kind, encode(told))


# Stands for it, and is no value of any field.
_NOT_HELD = "a value that no number can hold"


def _is_held(value: msgspec.Raw) -> bool:
    try:
        decode(object, value)
    except Unmappable:
        return False
    return True


def ticker_fields(
    key: StreamKey, ticker: TickerMessage, ts_recv: int
) -> tuple[int, int | None, Fields]:
    """The plain case: every optional field that is there is readable."""
    mapped = read_ticker(key, ticker, ts_recv)
    if mapped.refused:
        raise mapped.refused[0]
    return mapped.ts_event, mapped.venue_seq, mapped.fields


def read_ticker(key: StreamKey, ticker: TickerMessage, ts_recv: int) -> Mapped:
    """What a WebSocket ticker says. Raises Unmappable without type, product or price."""
    expect(key, "ticker", ticker.type, ticker.product_id)
    time = micros(ticker.time) or ts_recv
    figures: tuple[Any, ...] = _figures(ticker)
    optional = OptionalFields(ticker)
    # Nearly always all of them are there: one search instead of eleven.
    if not are_decimals(figures):
        check_decimals(ticker.price)
        figures = (ticker.price, *map(optional.decimal, _FIGURES))
    price, size, bid, bid_size, ask, ask_size, first, high, low, volume, volume_30d = figures
    trade_id, side = optional.number("trade_id"), optional.side("side")
    trade = None
    if trade_id is not None and size is not None:
        trade = Trade(price, size, side, trade_id, time)
    stats = Stats24h(first, high, low, volume)
    fields = Fields(
        last_trade=trade,
        best_bid=level_of(bid, bid_size),
        best_ask=level_of(ask, ask_size),
        stats_24h=stats if stats != _NO_STATS else None,
        volume_30d=volume_30d,
    )
    return Mapped(time, ticker.sequence, fields, tuple(optional.refused))


# In the order in which `read_ticker` takes them, behind the price.
_FIGURES = (
    *("last_size", "best_bid", "best_bid_size", "best_ask", "best_ask_size"),
    *("open_24h", "high_24h", "low_24h", "volume_24h", "volume_30d"),
)
_figures = attrgetter("price", *_FIGURES)
_NO_STATS = Stats24h()


def level_of(price: str | None, size: str | None) -> Level | None:
    """A side's best level; None where the venue names no price."""
    return None if price is None else Level(price, size)


def match_fields(
    key: StreamKey, match: MatchMessage, ts_recv: int
) -> tuple[int, int | None, Fields]:
    """What a match says. Raises Unmappable unless all of a trade is there."""
    if match.type is not None or match.product_id is not None:
        expect(key, "match", match.type, match.product_id)
    trade = taker_trade(match, ts_recv)
    return trade.time, match.sequence, Fields(last_trade=trade)


def taker_trade(match: MatchMessage, ts_recv: int) -> Trade:
    """The trade, with the side of its taker: the venue names the maker's."""
    taker = None
    if match.side:
        taker = _TAKER.get(match.side)
        if taker is None:
            raise Unmappable("bad_side", repr(match.side)[:80])
    check_decimals(match.price, match.size)
    time = micros(match.time) or ts_recv
    return Trade(match.price, match.size, taker, match.trade_id, time)


def expect(key: StreamKey, type_: str, got_type: str | None, got_product: str | None) -> None:
    """Raise Unmappable unless the message is of this type and of the stream's product."""
    if got_type != type_:
        raise Unmappable("unexpected_type", f"expected {type_!r}, got {got_type!r}")
    if got_product != key.product:
        raise Unmappable("wrong_product", f"expected {key.product!r}, got {got_product!r}")


def check_decimals(*texts: str) -> None:
    """Raise Unmappable unless all are texts of decimal numbers."""
    if not are_decimals(texts):
        raise Unmappable("bad_decimal", repr(first_bad(texts))[:80])
