"""A frame of the venue: an event, or `MalformedFrame`.

The normalizer can read what is passed on. Whatever was refused still has an answer to what it may
have been about.
"""

from __future__ import annotations

from services.common.subjects import StreamKey
from services.ingestor.venues.base import MAX_NUMBER, Event, Kind, MalformedFrame
from services.ingestor.venues.coinbase import CoinbaseFeed
from services.normalizer.venues.coinbase import CoinbaseMapper

_MAPPER = CoinbaseMapper()
_RECEIVED = 1_783_000_000_000_000
_SCHEMA = (
    b'{"type":"level3","schema":{"open":["type","product_id","sequence","order_id","side","price",'
    b'"size","time"],"done":["type","product_id","sequence","order_id","time"],"match":["type",'
    b'"product_id","sequence","maker_order_id","taker_order_id","price","size","time"],"change":['
    b'"type","product_id","sequence","order_id","price","size","time"],"noop":["type","product_id",'
    b'"sequence","time"]}}'
)


def check(data: bytes) -> None:
    for orders in (False, True):
        feed = CoinbaseFeed(orders=orders)
        try:
            event = feed.parse(data)
        except MalformedFrame:
            _in_bounds(feed.damaged(data))
            continue
        _in_bounds(event)
        if not orders:
            _understood(event, data)


def _in_bounds(event: Event) -> None:
    assert 0 <= event.number <= MAX_NUMBER
    assert 0 <= event.trade_id <= MAX_NUMBER
    assert 0 <= event.time < 2**53
    if event.order is not None:
        assert 0 < event.order.sequence <= MAX_NUMBER
        assert event.order.size >= 0


def _understood(event: Event, frame: bytes) -> None:
    """A stream that takes this record gets nothing else in its place: it has to be readable."""
    match event.kind:
        case Kind.TRADE:
            _MAPPER.fields(StreamKey("coinbase", "trades", event.product), frame, _RECEIVED)
        case Kind.TICKER:
            _MAPPER.fields(StreamKey("coinbase", "ticker", event.product), frame, _RECEIVED)
        case Kind.BOOK_UPDATE:
            _MAPPER.fields(StreamKey("coinbase", "book", event.product), frame, _RECEIVED)
        case Kind.BOOK_SNAPSHOT:
            _MAPPER.state(StreamKey("coinbase", "book", event.product), frame, _RECEIVED)
        case Kind.ORDER if event.order is not None:
            key = StreamKey("coinbase", "book", event.product)
            _MAPPER.fields(key, frame, _RECEIVED, [("buy", "1", "2")])
        case _:
            pass


SEEDS = (
    (
        b'{"type":"match","trade_id":5,"maker_order_id":"m","taker_order_id":"t","side":"buy",'
        b'"size":"0.1","price":"100.5","product_id":"BTC-USD","sequence":9,'
        b'"time":"2026-07-07T22:58:17.050195Z"}'
    ),
    (
        b'{"type":"ticker","sequence":7,"product_id":"BTC-USD","price":"1.5","open_24h":"1",'
        b'"volume_24h":"2","low_24h":"1","high_24h":"2","volume_30d":"5","best_bid":"1",'
        b'"best_bid_size":"1","best_ask":"2","best_ask_size":"3","side":"sell",'
        b'"time":"2026-07-07T22:58:17.050195Z","trade_id":3,"last_size":"1e-7"}'
    ),
    (
        b'{"type":"l2update","product_id":"BTC-USD","changes":[["buy","1","2"],["sell","3","0"]],'
        b'"time":"2026-07-07T22:58:17.050195Z"}'
    ),
    b'{"type":"snapshot","product_id":"BTC-USD","bids":[["1","2"]],"asks":[["3","4"]]}',
    (
        b'{"type":"heartbeat","sequence":1,"last_trade_id":2,"product_id":"BTC-USD",'
        b'"time":"2026-07-07T22:58:17.050195Z"}'
    ),
    (
        b'{"type":"open","order_id":"a","product_id":"BTC-USD","sequence":4,"price":"1",'
        b'"remaining_size":"2","side":"buy","time":"2026-07-07T22:58:17.050195Z"}'
    ),
    (
        b'{"type":"change","order_id":"a","product_id":"BTC-USD","sequence":4,"new_size":"1",'
        b'"old_size":"2","price":"1","side":"buy"}'
    ),
    b'{"type":"done","order_id":"a","product_id":"BTC-USD","sequence":5}',
    b'{"type":"error","message":"x","reason":"y"}',
    b'{"type":"subscriptions","channels":[]}',
    b'["open","BTC-USD","137","6e3d","sell","84.5","0.01","2026-07-07T22:58:17.050195Z"]',
    b'["change","BTC-USD","138","6e3d","","0.01","2026-07-07T22:58:17.050195Z"]',
    b'["match","BTC-USD","139","a","b","1","2","2026-07-07T22:58:17.050195Z"]',
    _SCHEMA,
)
