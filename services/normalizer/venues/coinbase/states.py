"""Whole states: snapshots, and what REST answers. Pure."""

from __future__ import annotations

from contextlib import suppress
from decimal import Decimal
from operator import attrgetter
from typing import Any

import msgspec

from services.common.domain.decimals import are_decimals, is_decimal
from services.common.domain.levels import is_row, readable_rows
from services.common.subjects import StreamKey
from services.common.times import micros
from services.common.wire import UNREADABLE, Fields, Stats24h, Trade, encode
from services.normalizer.venues.coinbase.messages import (
    BookMessage,
    BookRow,
    MatchMessage,
    RestTicker,
    TickerMessage,
    TypedMessage,
)
from services.normalizer.venues.coinbase.trades_and_tickers import (
    OptionalFields,
    check_decimals,
    decode_ticker,
    expect,
    level_of,
    read_ticker,
    taker_trade,
)
from services.normalizer.venues.mapping import MappedState, Unmappable, decode


def ticker_state(key: StreamKey, body: bytes, ts_recv: int) -> MappedState:
    """The state that a ticker of the WebSocket or of REST gives."""
    if decode(TypedMessage, body).type is not None:
        mapped = read_ticker(key, decode_ticker(TickerMessage, body), ts_recv)
        state = msgspec.Raw(encode(mapped.fields))
        return MappedState(mapped.ts_event, state, mapped.refused)
    ticker = decode_ticker(RestTicker, body)
    check_decimals(ticker.price)
    optional = OptionalFields(ticker)
    size, volume = optional.decimal("size"), optional.decimal("volume")
    time = micros(ticker.time) or ts_recv
    trade = None
    if size is not None:
        # REST does not say who the taker was.
        trade = Trade(ticker.price, size, None, ticker.trade_id, time)
    fields = Fields(
        last_trade=trade,
        best_bid=level_of(optional.decimal("bid"), None),
        best_ask=level_of(optional.decimal("ask"), None),
        stats_24h=None if volume is None else Stats24h(volume=volume),
    )
    return MappedState(time, msgspec.Raw(encode(fields)), tuple(optional.refused))


def trades_state(body: bytes, ts_recv: int) -> MappedState:
    """The state that a page of REST's trades gives, oldest first."""
    refused: list[Unmappable] = []
    trades: list[Trade] = []
    for row in decode(list[msgspec.Raw], body):
        # One that makes no sense must not cost those beside it.
        try:
            trades.append(taker_trade(decode(MatchMessage, bytes(row)), ts_recv))
        except Unmappable as error:
            refused.append(error)
    trades.sort(key=attrgetter("trade_id"))
    time = trades[-1].time if trades else ts_recv
    return MappedState(time, msgspec.Raw(encode({"trades": trades})), tuple(refused))


def book_state(key: StreamKey, body: bytes, ts_recv: int) -> MappedState:
    """The state that a snapshot or REST's book gives, best level first."""
    book = _decode_book(body)
    if book.type is not None or book.product_id is not None:
        expect(key, "snapshot", book.type, book.product_id)
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


def _decode_book(body: bytes) -> BookMessage[Any]:
    try:
        return decode(BookMessage[BookRow], body)
    except Unmappable:
        # Perhaps some rows are none; that costs them only.
        with suppress(*UNREADABLE):
            body = readable_rows(body)
        return decode(BookMessage[Any], body)


def _best_first(
    side: str, rows: list[Any] | None, refused: list[Unmappable], *, descending: bool
) -> list[BookRow]:
    good: list[BookRow] = []
    for index, row in enumerate(rows or ()):
        if isinstance(row, BookRow):
            good.append(row)
        elif is_row(row):
            good.append(BookRow(row[0], row[1]))
        else:
            refused.append(Unmappable("bad_row", f"{row!r}"[:80] + f" - at `$.{side}[{index}]`"))
    if not are_decimals([row.price for row in good] + [row.size for row in good]):
        refused.extend(
            Unmappable("bad_row", f"{[row.price, row.size]} - at `$.{side}[{index}]`")
            for index, row in enumerate(good)
            if not (is_decimal(row.price) and is_decimal(row.size))
        )
        good = [row for row in good if is_decimal(row.price) and is_decimal(row.size)]
    # Nearly always they are sorted, and then this takes one comparison a row.
    good.sort(key=lambda row: Decimal(row.price), reverse=descending)
    return good
