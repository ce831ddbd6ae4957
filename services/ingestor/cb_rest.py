"""Coinbase Exchange's REST API, as healing needs it.

All calls share one limiter (the venue allows 10 a second, bursts of 15) and one product has
one call under way at a time. Only a 4xx in the venue's own words is a refusal; 429, 5xx, silence
and what nobody can read are tried again with jittered backoff; the caller's deadline ends it. One
in the background goes beside that one, is not tried again, and waits until half of a burst is left
to others. Answers come through a CDN and may be older than the question: ids and times are handed
back for the caller to judge.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import httpx
import msgspec

from services.common.domain.decimals import is_decimal
from services.common.domain.levels import SIDES, Unreadable, check_rows_json, is_row, readable_rows
from services.common.errors import VenueRefused, VenueUnavailable
from services.common.resilience import Backoff, CircuitBreaker
from services.common.times import micros
from services.common.wire import UNREADABLE
from services.ingestor.feed.limiter import Limiter
from services.ingestor.feed.rest_call import CallFailed, get, open_http
from services.ingestor.venues.base import (
    BookImage,
    Number,
    OrderImage,
    OrderRow,
    Quote,
    TradeRow,
    VenueRest,
)

RATE_PER_S = 10.0
# One less than the venue's 15: calls that travel at unequal speed then still find a token there.
BURST = 14
# Rows of one page of trades, at most.
PAGE = 1000

_ATTEMPTS = 6
_TIMEOUT = httpx.Timeout(3.0)
_TOO_MANY = 429


class _Product(msgspec.Struct):
    id: str
    status: str = "online"
    trading_disabled: bool = False


class _Trade(msgspec.Struct):
    # Only those that were asked for are taken.
    trade_id: int
    price: str
    size: str
    side: str | None = None
    time: str | None = None


class _Ticker(msgspec.Struct):
    trade_id: Number
    price: str
    time: str | None = None


class _Book(msgspec.Struct):
    bids: msgspec.Raw
    asks: msgspec.Raw
    sequence: int | None = None
    time: str | None = None
    auction_mode: bool | None = None


class _Orders(msgspec.Struct):
    bids: list[Any] | None
    asks: list[Any] | None
    sequence: Number
    time: str | None = None


_decode_trade = msgspec.json.Decoder(_Trade).decode


class CoinbaseRest(VenueRest):
    """Use as a context manager.

    Raises:
        BadProxy: the environment names a proxy for `base_url` that cannot be used.
    """

    def __init__(
        self,
        base_url: str,  # where the API is
        limiter: Limiter | None = None,  # shared by everything that calls this venue
        # Likewise; while its circuit is open, calls fail at once.
        breaker: CircuitBreaker | None = None,
    ) -> None:
        self._client = open_http(base_url, _TIMEOUT)
        self._limiter = limiter if limiter is not None else Limiter(RATE_PER_S, BURST)
        self._breaker = breaker if breaker is not None else CircuitBreaker(10, 1.0)
        self._flights: defaultdict[tuple[str, bool], asyncio.Lock] = defaultdict(asyncio.Lock)
        # Whether both page bounds were honoured together so far; older clients doubt it.
        self._both_bounds = True
        self.calls = 0
        self.failures = 0

    async def __aenter__(self) -> CoinbaseRest:
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._client.aclose()

    @property
    def backlog_s(self) -> float:
        return self._limiter.backlog_s

    async def tradable(self) -> Mapping[str, str | None]:
        rows = self._read(list[_Product], await self._get("/products", {}), "/products")
        return {
            row.id: f"status {row.status}"
            if row.status == "delisted" or row.trading_disabled
            else None
            for row in rows
        }

    async def trades(
        self, product: str, first: int, last: int, *, background: bool = False
    ) -> Sequence[TradeRow]:
        last = min(last, first + PAGE - 1)
        params = {"after": str(last + 1), "limit": str(last - first + 1)}
        if self._both_bounds:
            params["before"] = str(first - 1)
        path = f"/products/{product}/trades"
        answer = await self._one_at_a_time(product, path, params, background=background)
        rows = []
        outside = 0
        for body in self._read(list[msgspec.Raw], answer, path):
            row = _trade(bytes(body))
            if row is None:
                # Nobody could read it in the log either. It is missing still, and the others are
                # not worse for it.
                continue
            if first <= row.trade_id <= last:
                rows.append(TradeRow(row.trade_id, (micros(row.time) or 0), bytes(body)))
            else:
                outside += 1
        if outside and self._both_bounds:
            # Page downwards with `after` alone from now on: ids tell where to stop.
            self._both_bounds = False
        rows.sort(key=lambda row: row.trade_id)
        return rows

    async def ticker(self, product: str) -> Quote:
        path = f"/products/{product}/ticker"
        answer = await self._one_at_a_time(product, path, {})
        head = self._read(_Ticker, answer, path)
        if not is_decimal(head.price):
            raise VenueUnavailable(path, f"unreadable answer: price {head.price!r}"[:200])
        return Quote(head.trade_id, (micros(head.time) or 0), answer)

    async def book(self, product: str, *, background: bool = False) -> BookImage:
        path = f"/products/{product}/book"
        answer = await self._one_at_a_time(product, path, {"level": "2"}, background=background)
        head = self._read(_Book, answer, path)
        try:
            check_rows_json(head.bids)
            check_rows_json(head.asks)
        except Unreadable as error:
            raise VenueUnavailable(path, f"unreadable answer: {error}") from error
        time = micros(head.time) or 0
        return BookImage(time, head.sequence or 0, answer, auction=bool(head.auction_mode))

    async def orders(self, product: str) -> OrderImage:
        path = f"/products/{product}/book"
        answer = await self._one_at_a_time(product, path, {"level": "3"})
        try:
            book = self._read(_Orders, answer, path)
        except VenueUnavailable:
            with suppress(*UNREADABLE):
                answer = readable_rows(answer)
            book = self._read(_Orders, answer, path)
        time = micros(book.time) or 0
        # One row that makes no sense must not cost the book: the next answer would hold it too.
        bids, asks = _sensible(book.bids), _sensible(book.asks)
        return OrderImage(book.sequence, time, book.time or "", bids, asks)

    async def _one_at_a_time(
        self, product: str, path: str, params: Mapping[str, str], *, background: bool = False
    ) -> bytes:
        async with self._flights[product, background]:
            return await self._get(path, params, background=background)

    async def _get(
        self, path: str, params: Mapping[str, str], *, background: bool = False
    ) -> bytes:
        backoff = Backoff(0.1, 2.0, least=0.0)
        clock = asyncio.get_running_loop().time
        while True:
            if not self._breaker.allows(clock()):
                raise VenueUnavailable(path, "circuit open after repeated failures")
            await (self._limiter.spare_turn() if background else self._limiter.turn())
            self.calls += 1
            reason, status = "", None
            try:
                answer = await get(self._client, path, params)
            except CallFailed as error:
                reason = str(error)
            else:
                status = answer.status
                if answer.is_success:
                    self._breaker.succeeded()
                    return answer.body
                reason = f"HTTP {status} {answer.text}".rstrip()
                if answer.is_refusal:
                    # A refusal is an answer, too.
                    self._breaker.succeeded()
                    raise VenueRefused(path, reason, status=status)
                if status == _TOO_MANY:
                    self._limiter.exhausted()
            self.failures += 1
            self._breaker.failed(clock())
            if background or backoff.attempts >= _ATTEMPTS - 1:
                raise VenueUnavailable(path, reason, status=status)
            await asyncio.sleep(backoff.next_delay())

    @staticmethod
    def _read[T](shape: type[T], answer: bytes, path: str) -> T:
        try:
            return msgspec.json.decode(answer, type=shape)
        except (ValueError, RecursionError) as error:
            # Another document than the venue's own; broken UTF-8 and bottomless nesting surface as
            # built-in exceptions. Asking again may help.
            raise VenueUnavailable(path, f"unreadable answer: {error}") from error


def _sensible(rows: Iterable[Any] | None) -> list[OrderRow]:
    return [
        (row[0], row[1], row[2])
        for row in rows or ()
        if is_row(row) and len(row) > 2 and isinstance(row[2], str)
    ]


def _trade(body: bytes) -> _Trade | None:
    """A row of trades; None when it is none that a reader of the log would understand."""
    try:
        row = _decode_trade(body)
    except (ValueError, RecursionError):
        return None
    sided = not row.side or row.side in SIDES
    return row if sided and is_decimal(row.price) and is_decimal(row.size) else None
