"""Answers of the venue's REST API: rows, or `VenueUnavailable`; what is passed on can be read.

One answer is given to every question.
"""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from contextlib import suppress
from typing import Any

from services.common.errors import VenueUnavailable
from services.common.subjects import StreamKey
from services.ingestor.cb_rest import CoinbaseRest
from services.ingestor.feed.rest_call import CallFailed, _check
from services.ingestor.integrity.book_replica import BookReplica
from services.normalizer.venues.coinbase import CoinbaseMapper

_MAPPER = CoinbaseMapper()
_RECEIVED = 1_783_000_000_000_000
_PRODUCT = "BTC-USD"


class _Answered(CoinbaseRest):
    """Who asks is told the same each time, at once."""

    answer = b""

    async def _get(
        self, path: str, params: Mapping[str, str], *, background: bool = False
    ) -> bytes:
        return self.answer


_rest = _Answered("http://127.0.0.1:9")


def _result[T](call: Coroutine[Any, Any, T]) -> T:
    """What a call answers that waits for nothing."""
    try:
        call.send(None)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]  # the call's own
    raise AssertionError("it waits")


def check(data: bytes) -> None:
    try:
        _check(data)
    except CallFailed:
        return
    _rest.answer = data
    with suppress(VenueUnavailable):
        rows = _result(_rest.trades(_PRODUCT, 1, 1000))
        assert [row.trade_id for row in rows] == sorted(row.trade_id for row in rows)
        for row in rows:
            key = StreamKey("coinbase", "trades", _PRODUCT)
            trade = _MAPPER.fields(key, row.body, _RECEIVED).fields.last_trade
            assert trade is not None
            assert trade.trade_id == row.trade_id
    with suppress(VenueUnavailable):
        quote = _result(_rest.ticker(_PRODUCT))
        _MAPPER.state(StreamKey("coinbase", "ticker", _PRODUCT), quote.body, _RECEIVED)
    with suppress(VenueUnavailable):
        book = _result(_rest.book(_PRODUCT))
        replica = BookReplica()
        replica.base(book.body)
        replica.fold(replica.pop_updates())
        assert replica.usable, "a row costs itself only"
        _MAPPER.state(StreamKey("coinbase", "book", _PRODUCT), book.body, _RECEIVED)
    with suppress(VenueUnavailable):
        orders = _result(_rest.orders(_PRODUCT))
        assert orders.sequence >= 0
        assert all(isinstance(cell, str) for row in (*orders.bids, *orders.asks) for cell in row)
    with suppress(VenueUnavailable):
        assert all(isinstance(name, str) for name in _result(_rest.tradable()))


SEEDS = (
    (
        b'[{"trade_id":5,"side":"buy","size":"0.1","price":"1.5",'
        b'"time":"2026-07-07T22:58:17.050195Z"},{"trade_id":4,"side":"sell","size":"1","price":"2"}]'
    ),
    (
        b'{"ask":"2","bid":"1","volume":"9","trade_id":5,"price":"1.5","size":"1",'
        b'"time":"2026-07-07T22:58:17.050195Z","rfq_volume":"0.1"}'
    ),
    (
        b'{"bids":[["1","2",3]],"asks":[["4","5",6]],"sequence":12,"auction_mode":false,'
        b'"auction":null,"time":"2026-07-07T22:58:17.050195Z"}'
    ),
    b'{"bids":[["1","2","id"],["1",1e400]],"asks":null,"sequence":12,"time":null}',
    b'[{"id":"BTC-USD","status":"online","trading_disabled":false},{"id":"A","status":"delisted"}]',
)
