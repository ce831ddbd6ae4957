"""Messages of the Coinbase Exchange WebSocket feed, as they are written.

Field order is the venue's. Prices and sizes are texts, ids and sequences integers, `time` RFC 3339
with six digits. Optional fields that are None are left out.
"""

from __future__ import annotations

import tomllib
from enum import StrEnum
from pathlib import Path
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


_FIELDS = tomllib.loads(Path(__file__).with_name("fields.toml").read_text())
ORDER_FIELDS: dict[str, list[str]] = _FIELDS["order"]
LEVEL3_SCHEMA: dict[str, list[str]] = _FIELDS["level3"]
OrderMessage = dict[str, Any]


def order_message(kind: str, **known: Any) -> OrderMessage:
    return {"type": kind, **{name: known[name] for name in ORDER_FIELDS[kind] if name in known}}


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


def level3_row(event: OrderMessage | Match) -> list[str]:
    """The compact form of an order event; `noop` stands for what does not touch the book."""
    fields = msgspec.to_builtins(event) if isinstance(event, Match) else event
    kind = fields["type"]
    if kind == "received" or (kind == "done" and "price" not in fields):
        kind = "noop"
    # Of a change the new ones; of what rests what remains.
    price, size = fields.get("new_price"), fields.get("new_size", fields.get("remaining_size"))
    known = {"price": price, "size": size, **fields, "type": kind}
    return [str(known[name]) for name in LEVEL3_SCHEMA[kind]]


encode = msgspec.json.Encoder().encode


class Outgoing(NamedTuple):
    """A message for everybody who subscribed one of `channels` for `product`."""

    channels: tuple[str, ...]
    product: str
    type: str
    # What is written: a message to encode, or the bytes of a recorded one.
    body: msgspec.Struct | OrderMessage | bytes

    def encoded(self) -> bytes:
        if isinstance(self.body, bytes):
            return self.body
        if self.type == Channel.LEVEL3 and isinstance(self.body, dict | Match):
            return encode(level3_row(self.body))
        return encode(self.body)

    @property
    def sequence(self) -> int | None:
        body = self.body
        return body.get("sequence") if isinstance(body, dict) else getattr(body, "sequence", None)

    @property
    def trade_id(self) -> int | None:
        return getattr(self.body, "trade_id", None)
