"""Coinbase Exchange's WebSocket protocol: frames to events, requests, signatures. Pure.

Only the fields that continuity needs are decoded. Names in acknowledgements differ from those
asked for (`level2_batch` is acknowledged as `level2_50`), so they are not compared.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Iterable
from typing import Any

import msgspec

from services.common.domain.decimals import is_decimal
from services.common.domain.levels import SIDES, Unreadable, check_changes_json, check_rows_json
from services.common.times import micros
from services.common.wire import UNREADABLE
from services.ingestor.venues.base import (
    MAX_NUMBER,
    Credentials,
    Event,
    Kind,
    MalformedFrame,
    Number,
    OrderAction,
    OrderEvent,
    VenueFeed,
    decimal_text,
    decimal_value,
)
from services.ingestor.venues.level3 import Level3

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
_TICKER, _HEARTBEAT = Kind.TICKER, Kind.HEARTBEAT


_ABSENT = msgspec.Raw()


class _Frame(msgspec.Struct, gc=False):
    type: str
    product_id: str = ""
    trade_id: Number | None = 0
    sequence: Number | None = 0
    last_trade_id: Number | None = 0
    time: str | None = None
    price: str | None = None
    size: str | None = None
    side: str | None = None
    # Read where they stand, and passed on as they came.
    changes: msgspec.Raw = _ABSENT
    bids: msgspec.Raw = _ABSENT
    asks: msgspec.Raw = _ABSENT
    message: str | None = None
    reason: str | None = None


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
# Names in a frame that is no JSON any more.
_find_type = re.compile(rb'"type"\s*:\s*"([^"\\]{1,64})"').search
_find_product = re.compile(rb'"product_id"\s*:\s*"([^"\\]{1,64})"').search


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
        self._level3 = Level3()

    def parse(self, frame: bytes) -> Event:
        if not frame.isascii():
            # Fields that are read over here are read, or passed on as text, by others.
            _check_text(frame)
        if frame[:1] == b"[":
            return self._level3.row(frame)
        try:
            message = _decode(frame)
        except msgspec.ValidationError as error:
            raise MalformedFrame("bad_field", str(error)) from error
        except UNREADABLE as error:
            raise MalformedFrame("bad_json", str(error)) from error
        kind = _KINDS.get(message.type)
        if kind is None:
            if message.type == "subscriptions":
                return Event(Kind.SUBSCRIBED, "")
            if message.type == LEVEL3:
                return self._level3.schema(frame)
            if message.type == "error":
                text = f"{message.message or ''}: {message.reason or ''}".strip(": ")
                return Event(Kind.REFUSED, "", text=text)
            return Event(Kind.UNKNOWN, "", text=message.type)
        product = message.product_id
        if not product:
            raise MalformedFrame("missing_field", f"{message.type} without product_id")
        time = micros(message.time) or 0
        if kind is _BOOK_UPDATE or kind is _BOOK_SNAPSHOT:
            _check_book(message, whole=kind is _BOOK_SNAPSHOT)
            return Event(kind, product, 0, time)
        order: OrderEvent | None = None
        if kind is _TRADE or kind is _TRADE_SEED:
            number = message.trade_id or 0
            if self._orders and kind is _TRADE:
                order = self._order(frame, time)
        else:
            number = message.sequence or 0
            if kind is _ORDER:
                order = self._order(frame, time)
        # A product that nobody ever traded may have a heartbeat without any number.
        if number <= 0 and kind is not _HEARTBEAT:
            raise MalformedFrame("missing_field", f"{message.type} without its number")
        if kind is _TRADE:
            _check_trade(message)
        elif kind is _TICKER:
            decimal_text(message.price)
        trade_id = message.last_trade_id or message.trade_id or 0
        return Event(kind, product, number, time, trade_id, "", order)

    def damaged(self, frame: bytes) -> Event:
        if frame[:1] not in (b"{", b"["):
            # No message of the venue begins like this: a proxy's page, somebody's keep-alive.
            return Event(Kind.REFUSED, "")
        try:
            message = msgspec.json.decode(frame)
        except (ValueError, RecursionError):
            found, product = _find_type(frame), _find_product(frame)
            message = {
                "type": found and found[1].decode(errors="replace"),
                "product_id": product and product[1].decode(errors="replace"),
            }
        if isinstance(message, list):
            # A row of `level3`: its number is missing now, which says all.
            return Event(Kind.ORDER, str(message[1]) if len(message) > 1 else "")
        name, product = message.get("type"), message.get("product_id")
        kind = _KINDS.get(name, Kind.REFUSED) if isinstance(name, str) else Kind.UNKNOWN
        number, told = message.get("trade_id"), message.get("time")
        return Event(
            kind,
            product if isinstance(product, str) else "",
            number if type(number) is int and 0 < number <= MAX_NUMBER else 0,
            micros(told) or 0,
        )

    @staticmethod
    def _order(frame: bytes, time: int) -> OrderEvent:
        try:
            order = _decode_order(frame)
        except UNREADABLE as error:
            raise MalformedFrame("bad_field", str(error)) from error
        if order.sequence <= 0:
            raise MalformedFrame("missing_field", f"{order.type} without its number")
        kind, number = order.type, order.sequence
        if kind == "open":
            if order.side not in SIDES or not order.order_id:
                raise MalformedFrame("bad_field", "open without its order or side")
            price, size = decimal_text(order.price), decimal_value(order.remaining_size)
            whose = order.order_id
            return OrderEvent(number, time, OrderAction.OPEN, whose, order.side, price, size)
        if kind == "done":
            return OrderEvent(number, time, OrderAction.DONE, order.order_id)
        if kind == "match":
            size = decimal_value(order.size)
            return OrderEvent(number, time, OrderAction.MATCH, order.maker_order_id, size=size)
        if kind == "change" and order.new_size is not None:
            # Self-trade prevention tells the price the order has, an amendment the one it gets.
            told = order.new_price or order.price
            price, size = decimal_text(told) if told else "", decimal_value(order.new_size)
            whose = order.order_id
            return OrderEvent(number, time, OrderAction.CHANGE, whose, price=price, size=size)
        # `received`, and a `change` of a market order's funds: the book does not see them.
        return OrderEvent(number, time, OrderAction.NONE)

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


def _check_text(frame: bytes) -> None:
    try:
        frame.decode()
    except UnicodeDecodeError as error:
        raise MalformedFrame("bad_json", str(error)) from error


def _check_book(message: _Frame, *, whole: bool) -> None:
    """Raise MalformedFrame for what no reader of the log could take for a book, or apply to one.

    Single bad rows of a whole book cost themselves only.
    """
    if whole and not (message.bids and message.asks):
        raise MalformedFrame("missing_field", "snapshot without bids or asks")
    if not whole and not message.changes:
        raise MalformedFrame("missing_field", "l2update without changes")
    try:
        if whole:
            check_rows_json(message.bids)
            check_rows_json(message.asks)
        else:
            check_changes_json(message.changes)
    except Unreadable as error:
        raise MalformedFrame(error.code, error.detail) from error


def _check_trade(message: _Frame) -> None:
    """Raise MalformedFrame for what is no trade; who the maker was may be left out."""
    if not is_decimal(message.price) or not is_decimal(message.size):
        raise MalformedFrame("bad_decimal", repr((message.price, message.size))[:80])
    if message.side and message.side not in SIDES:
        raise MalformedFrame("bad_side", repr(message.side)[:80])
