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

from services.ingestor.venues.base import Credentials, Event, Kind, MalformedFrame, VenueFeed
from services.ingestor.venues.rfc3339 import Rfc3339

SIGNED_PATH = "/users/self/verify"

# The venue's channels, and which of ours each one feeds ("" none: it proves the others).
CHANNELS = {
    "ticker": "ticker",
    "ticker_batch": "ticker",
    "matches": "trades",
    "level2_batch": "book",
    "level2_50": "book",
    "level2": "book",
    "heartbeat": "",
}

_KINDS = {
    "match": Kind.TRADE,
    "last_match": Kind.TRADE_SEED,
    "ticker": Kind.TICKER,
    "l2update": Kind.BOOK_UPDATE,
    "snapshot": Kind.BOOK_SNAPSHOT,
    "heartbeat": Kind.HEARTBEAT,
}


class _Frame(msgspec.Struct, gc=False):
    type: str
    product_id: str = ""
    trade_id: int = 0
    sequence: int = 0
    last_trade_id: int = 0
    time: str | None = None
    message: str = ""
    reason: str = ""


_decode = msgspec.json.Decoder(_Frame).decode


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
    name = "coinbase"
    channels = CHANNELS

    def __init__(self, credentials: Credentials | None = None) -> None:
        self._credentials = credentials
        self._clock = Rfc3339()

    def parse(self, frame: bytes) -> Event:
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
            if message.type == "error":
                text = f"{message.message}: {message.reason}".strip(": ")
                return Event(Kind.REFUSED, "", text=text)
            return Event(Kind.UNKNOWN, "", text=message.type)
        product = message.product_id
        if not product:
            raise MalformedFrame("missing_field", f"{message.type} without product_id")
        if kind is Kind.TRADE or kind is Kind.TRADE_SEED:
            number = message.trade_id
        elif kind is Kind.TICKER or kind is Kind.HEARTBEAT:
            number = message.sequence
        else:
            return Event(kind, product, 0, self._clock.micros(message.time))
        if number <= 0:
            raise MalformedFrame("missing_field", f"{message.type} without its number")
        return Event(
            kind,
            product,
            number,
            self._clock.micros(message.time),
            message.last_trade_id or message.trade_id,
        )

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
