"""Coinbase Exchange's messages as they are decoded. Pure."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from services.common.domain.levels import Change

# What every reader of the log can hold; msgspec by itself takes integers of any size.
MAX_ID = 2**63 - 1
_Id = Annotated[int, msgspec.Meta(ge=0, le=MAX_ID)]


class TickerMessage(msgspec.Struct, gc=False):
    """Optional is what some recorded ticker lacked: the first one after subscribing, old ones.

    Whatever stands in an optional field is judged field by field, by `OptionalFields`.
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


class RestTicker(msgspec.Struct, gc=False):
    trade_id: _Id
    price: str
    size: Any = None
    bid: Any = None
    ask: Any = None
    volume: Any = None
    time: Any = None


class MatchMessage(msgspec.Struct, gc=False):
    """A `match`, or a row of `GET /products/{id}/trades`, which has no `type` and no product."""

    trade_id: _Id
    price: str
    size: str
    side: str | None = None
    type: str | None = None
    product_id: str | None = None
    sequence: _Id | None = None
    time: Any = None


class L2Update(msgspec.Struct, gc=False):
    type: str
    product_id: str
    changes: list[Change] | None
    time: Any = None


class UntouchedL2Update(msgspec.Struct, gc=False):
    """An `L2Update` whose changes stay the text the venue sent; any other has none."""

    type: str
    product_id: str
    changes: msgspec.Raw
    time: Any = None


class UntouchedChanges(msgspec.Struct, gc=False):
    """Encoded as `Fields` with the same changes."""

    changes: msgspec.Raw


class OrderMessage(msgspec.Struct, gc=False):
    """A message of `full` about one order."""

    type: str
    product_id: str
    sequence: _Id
    time: Any = None


class BookRow(msgspec.Struct, array_like=True, gc=False):
    """A row of a book. REST adds the number of orders, which is read over and not written."""

    price: str
    size: str


class BookMessage[Row](msgspec.Struct, gc=False):
    """A WebSocket `snapshot`, or `GET /products/{id}/book?level=2`, which has no `type`.

    Its rows are `BookRow`; or of any kind, where some cannot be read.
    """

    bids: list[Row] | None
    asks: list[Row] | None
    type: str | None = None
    product_id: str | None = None
    time: Any = None


class TypedMessage(msgspec.Struct, gc=False):
    type: str | None = None
