"""Coinbase Exchange's WebSocket protocol: frames to events, requests, signatures. Pure.

Only the fields that continuity needs are decoded. Names in acknowledgements differ from those
asked for (`level2_batch` is acknowledged as `level2_50`), so they are not compared.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable
from typing import Any

import msgspec

from services.ingestor.venues.base import (
    Credentials,
    Event,
    Kind,
    MalformedFrame,
    Number,
    OrderAction,
    OrderEvent,
    VenueFeed,
)
from services.ingestor.venues.decimals import decimal_text, decimal_value
from services.ingestor.venues.level3 import Level3
from services.ingestor.venues.rfc3339 import Rfc3339

SIGNED_PATH = "/users/self/verify"

# The venue's channels, and which of ours each one feeds.
CHANNELS: dict[str, tuple[str, ...]] = {
    "ticker": ("ticker",),
    "ticker_batch": ("ticker",),
    "matches": ("trades",),
    "level2_batch": ("book",),
    "level2_50": ("book",),
    "level2": ("book",),
    "level3": ("book",),
    "full": ("trades", "book"),
    "heartbeat": (),
}
# Every order's life, contiguous by `sequence`: trades and book from one proof.
FULL = "full"
# The same as compact rows, without the ids of trades.
LEVEL3 = "level3"
# The book from these is one of orders.
BY_ORDER = frozenset({FULL, LEVEL3})
# These answer only to a signed subscription (since August 2023).
SIGNED = frozenset({"level2", *BY_ORDER})

_KINDS = {
    "match": Kind.TRADE,
    "last_match": Kind.TRADE_SEED,
    "ticker": Kind.TICKER,
    "l2update": Kind.BOOK_UPDATE,
    "snapshot": Kind.BOOK_SNAPSHOT,
    "heartbeat": Kind.HEARTBEAT,
    "received": Kind.ORDER,
    "open": Kind.ORDER,
    "done": Kind.ORDER,
    "change": Kind.ORDER,
}


# An enum's member costs a lookup each time it is named, and these are compared for every message.
_BOOK_UPDATE, _BOOK_SNAPSHOT = Kind.BOOK_UPDATE, Kind.BOOK_SNAPSHOT
_TRADE, _TRADE_SEED, _ORDER = Kind.TRADE, Kind.TRADE_SEED, Kind.ORDER


class _Frame(msgspec.Struct, gc=False):
    type: str
    product_id: str = ""
    trade_id: Number = 0
    sequence: Number = 0
    last_trade_id: Number = 0
    time: str | None = None
    message: str = ""
    reason: str = ""


class _Order(msgspec.Struct, gc=False):
    """A message of the `full` channel; market orders have neither price nor remaining size."""

    type: str
    sequence: Number
    order_id: str = ""
    maker_order_id: str = ""
    side: str = ""
    price: str | None = None
    new_price: str | None = None
    size: str | None = None
    remaining_size: str | None = None
    new_size: str | None = None


_decode = msgspec.json.Decoder(_Frame).decode
_decode_order = msgspec.json.Decoder(_Order).decode


def sign(secret: str, timestamp: str, method: str = "GET", path: str = SIGNED_PATH) -> str:
    """Signature of a request: base64(HMAC-SHA256(base64-decoded secret, timestamp+method+path)).

    Raises:
        ValueError: the secret is not base64.
    """
    digest = hmac.new(
        base64.b64decode(secret, validate=True),
        f"{timestamp}{method}{path}".encode(),
        hashlib.sha256,
    ).digest()
    return base64.b64encode(digest).decode()


class CoinbaseFeed(VenueFeed):
    """`orders`: whether matches are also to be read as what they do to a book of orders."""

    name = "coinbase"
    channels = CHANNELS

    def __init__(self, credentials: Credentials | None = None, *, orders: bool = False) -> None:
        self._credentials = credentials
        self._orders = orders
        self._clock = Rfc3339()
        self._level3 = Level3(self._clock)

    def parse(self, frame: bytes) -> Event:
        if frame[:1] == b"[":
            return self._level3.row(frame)
        try:
            message = _decode(frame)
        except msgspec.ValidationError as error:
            raise MalformedFrame("bad_field", str(error)) from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise MalformedFrame("bad_json", str(error)) from error
        kind = _KINDS.get(message.type)
        if kind is None:
            if message.type == "subscriptions":
                return Event(Kind.SUBSCRIBED, "")
            if message.type == LEVEL3:
                return self._level3.schema(frame)
            if message.type == "error":
                text = f"{message.message}: {message.reason}".strip(": ")
                return Event(Kind.REFUSED, "", text=text)
            return Event(Kind.UNKNOWN, "", text=message.type)
        product = message.product_id
        if not product:
            raise MalformedFrame("missing_field", f"{message.type} without product_id")
        time = self._clock.micros(message.time)
        if kind is _BOOK_UPDATE or kind is _BOOK_SNAPSHOT:
            return Event(kind, product, 0, time)
        order: OrderEvent | None = None
        if kind is _TRADE or kind is _TRADE_SEED:
            number = message.trade_id
            if self._orders and kind is _TRADE:
                order = self._order(frame, time)
        else:
            number = message.sequence
            if kind is _ORDER:
                order = self._order(frame, time)
        if number <= 0:
            raise MalformedFrame("missing_field", f"{message.type} without its number")
        trade_id = message.last_trade_id or message.trade_id
        return Event(kind, product, number, time, trade_id, "", order)

    @staticmethod
    def _order(frame: bytes, time: int) -> OrderEvent:
        try:
            order = _decode_order(frame)
        except msgspec.ValidationError as error:
            raise MalformedFrame("bad_field", str(error)) from error
        if order.sequence <= 0:
            raise MalformedFrame("missing_field", f"{order.type} without its number")
        if order.type == "open":
            if order.side not in ("buy", "sell") or not order.order_id:
                raise MalformedFrame("bad_field", "open without its order or side")
            price = decimal_text(order.price)
            return OrderEvent(
                order.sequence,
                time,
                OrderAction.OPEN,
                order.order_id,
                order.side,
                price,
                decimal_value(order.remaining_size),
            )
        if order.type == "done":
            return OrderEvent(order.sequence, time, OrderAction.DONE, order.order_id)
        if order.type == "match":
            size = decimal_value(order.size)
            return OrderEvent(
                order.sequence, time, OrderAction.MATCH, order.maker_order_id, size=size
            )
        if order.type == "change" and order.new_size is not None:
            # Self-trade prevention tells the price the order has, an amendment the one it gets.
            told = order.new_price or order.price
            return OrderEvent(
                order.sequence,
                time,
                OrderAction.CHANGE,
                order.order_id,
                price=decimal_text(told) if told else "",
                size=decimal_value(order.new_size),
            )
        # `received`, and a `change` of a market order's funds: the book does not see them.
        return OrderEvent(order.sequence, time, OrderAction.NONE)

    def subscribe(self, products: Iterable[str], channels: Iterable[str], now: float) -> bytes:
        request = self._request("subscribe", products, channels)
        if self._credentials is not None:
            timestamp = f"{now:.6f}"
            request |= {
                "signature": sign(self._credentials.secret, timestamp),
                "key": self._credentials.key,
                "passphrase": self._credentials.passphrase,
                "timestamp": timestamp,
            }
        return msgspec.json.encode(request)

    def unsubscribe(self, products: Iterable[str], channels: Iterable[str]) -> bytes:
        return msgspec.json.encode(self._request("unsubscribe", products, channels))

    @staticmethod
    def _request(verb: str, products: Iterable[str], channels: Iterable[str]) -> dict[str, Any]:
        # Product ids stand inside each channel: at the top level they have been refused.
        ids = list(products)
        return {
            "type": verb,
            "channels": [{"name": channel, "product_ids": ids} for channel in channels],
        }
