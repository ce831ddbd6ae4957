"""Messages of the Coinbase Exchange WebSocket feed, as they are written.

Field order is the venue's. Prices and sizes are texts, ids and sequences integers, `time` RFC 3339
with six digits. Optional fields that are None are left out.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, NamedTuple

import msgspec

Change = tuple[str, str, str]
Row = tuple[str, str]


class Ticker(msgspec.Struct, tag_field="type", tag="ticker", frozen=True, omit_defaults=True):
    """`side` is the taker's. A replayed recording without tickers cannot know the 24 h figures."""

    sequence: int
    product_id: str
    price: str
    open_24h: str | None = None
    volume_24h: str | None = None
    low_24h: str | None = None
    high_24h: str | None = None
    volume_30d: str | None = None
    best_bid: str | None = None
    best_bid_size: str | None = None
    best_ask: str | None = None
    best_ask_size: str | None = None
    side: str | None = None
    time: str | None = None
    trade_id: int | None = None
    last_size: str | None = None


class Heartbeat(msgspec.Struct, tag_field="type", tag="heartbeat", frozen=True):
    last_trade_id: int
    product_id: str
    sequence: int
    time: str


class Match(msgspec.Struct, tag_field="type", tag="match", frozen=True):
    """A trade. `side` is the maker's."""

    trade_id: int
    maker_order_id: str
    taker_order_id: str
    side: str
    size: str
    price: str
    product_id: str
    sequence: int
    time: str


class LastMatch(Match, tag_field="type", tag="last_match", frozen=True):
    """The newest trade before the subscription."""

    @classmethod
    def of(cls, match: Match) -> LastMatch:
        return cls(*(getattr(match, name) for name in match.__struct_fields__))


class Snapshot(msgspec.Struct, tag_field="type", tag="snapshot", frozen=True):
    product_id: str
    asks: list[Row]
    bids: list[Row]
    time: str


class L2Update(msgspec.Struct, tag_field="type", tag="l2update", frozen=True):
    product_id: str
    changes: list[Change]
    time: str


class Received(msgspec.Struct, tag_field="type", tag="received", frozen=True, omit_defaults=True):
    order_id: str
    order_type: str
    side: str
    product_id: str
    sequence: int
    time: str
    size: str | None = None
    price: str | None = None
    funds: str | None = None


class Open(msgspec.Struct, tag_field="type", tag="open", frozen=True):
    order_id: str
    side: str
    price: str
    remaining_size: str
    product_id: str
    sequence: int
    time: str


class Done(msgspec.Struct, tag_field="type", tag="done", frozen=True, omit_defaults=True):
    order_id: str
    reason: str
    side: str
    product_id: str
    sequence: int
    time: str
    price: str | None = None
    remaining_size: str | None = None


class Resize(msgspec.Struct, tag_field="type", tag="change", frozen=True):
    """A resting order became smaller, by self-trade prevention or by its owner."""

    reason: str
    order_id: str
    side: str
    old_size: str
    new_size: str
    price: str
    product_id: str
    sequence: int
    time: str


class Modify(msgspec.Struct, tag_field="type", tag="change", frozen=True):
    """A resting order moved to another price by its owner."""

    reason: str
    order_id: str
    side: str
    old_size: str
    new_size: str
    old_price: str
    new_price: str
    product_id: str
    sequence: int
    time: str


class Activate(msgspec.Struct, tag_field="type", tag="activate", frozen=True):
    """A stop order became active. It has neither a sequence nor a time, as on the venue."""

    product_id: str
    timestamp: str
    order_id: str
    stop_type: str
    side: str
    stop_price: str
    size: str
    funds: str
    private: bool = True


class Status(msgspec.Struct, tag_field="type", tag="status", frozen=True):
    products: list[dict[str, Any]]
    currencies: list[dict[str, Any]]


class AckChannel(msgspec.Struct, frozen=True):
    name: str
    product_ids: list[str]
    account_ids: None = None


class Subscriptions(msgspec.Struct, tag_field="type", tag="subscriptions", frozen=True):
    channels: list[AckChannel]


class Error(msgspec.Struct, tag_field="type", tag="error", frozen=True, omit_defaults=True):
    message: str
    reason: str | None = None


OrderEvent = Received | Open | Done | Match | Resize | Modify


class Channel(StrEnum):
    TICKER = "ticker"
    TICKER_BATCH = "ticker_batch"
    HEARTBEAT = "heartbeat"
    MATCHES = "matches"
    LEVEL2 = "level2"
    LEVEL2_BATCH = "level2_batch"
    LEVEL3 = "level3"
    FULL = "full"
    STATUS = "status"


LEVEL3_SCHEMA: dict[str, list[str]] = {
    "change": ["type", "product_id", "sequence", "order_id", "price", "size", "time"],
    "done": ["type", "product_id", "sequence", "order_id", "time"],
    "match": [
        *("type", "product_id", "sequence", "maker_order_id", "taker_order_id"),
        *("price", "size", "time"),
    ],
    "noop": ["type", "product_id", "sequence", "time"],
    "open": ["type", "product_id", "sequence", "order_id", "side", "price", "size", "time"],
}


def level3_row(event: OrderEvent) -> list[str]:
    """The compact form of an order event; `noop` stands for what does not touch the book."""
    product, sequence, time = event.product_id, str(event.sequence), event.time
    match event:
        case Open():
            order = (event.order_id, event.side, event.price, event.remaining_size)
            return ["open", product, sequence, *order, time]
        case Done(price=str()):
            return ["done", product, sequence, event.order_id, time]
        case Match():
            orders = (event.maker_order_id, event.taker_order_id)
            return ["match", product, sequence, *orders, event.price, event.size, time]
        case Resize() | Modify():
            price = event.price if isinstance(event, Resize) else event.new_price
            return ["change", product, sequence, event.order_id, price, event.new_size, time]
        case _:
            return ["noop", product, sequence, time]


encode = msgspec.json.Encoder().encode


class Outgoing(NamedTuple):
    """A message for everybody who subscribed one of `channels` for `product`."""

    channels: tuple[str, ...]
    product: str
    type: str
    # What is written: a message to encode, or the bytes of a recorded one.
    body: msgspec.Struct | bytes

    def encoded(self) -> bytes:
        if isinstance(self.body, bytes):
            return self.body
        if self.type == Channel.LEVEL3 and isinstance(self.body, OrderEvent):
            return encode(level3_row(self.body))
        return encode(self.body)

    @property
    def sequence(self) -> int | None:
        return getattr(self.body, "sequence", None)

    @property
    def trade_id(self) -> int | None:
        return getattr(self.body, "trade_id", None)
