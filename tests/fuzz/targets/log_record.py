"""A record of a tick log: read by gateway and snapshotter, or one of `UNREADABLE`.

What can be read, written anew, is read the same; its state can be folded, told to clients and put
into a batch and a row. One that can only be placed is `unknown` and ends nothing.
"""

from __future__ import annotations

import msgspec

from services.common.domain.book import BadLevel
from services.common.domain.fold import Fold
from services.common.stores.layout import TICKS, partition_of
from services.common.stream import Position
from services.common.subjects import StreamKey
from services.common.wire import (
    UNREADABLE,
    Reset,
    Tick,
    decode_head,
    decode_pulse,
    decode_record,
    decode_tick,
    encode,
)
from services.gateway.chain.stream_record import StreamRecord
from services.snapshotter.intake.delivered import read_tick


def check(data: bytes) -> None:
    for decode in (decode_record, decode_pulse, decode_head, decode_tick):
        try:
            value = decode(data)
        except UNREADABLE:
            continue
        assert decode(encode(value)) == value
    _delivered(data)
    try:
        record = StreamRecord(data)
    except msgspec.DecodeError:
        return
    assert record.payload == data
    for message in record.messages(depth=1, late=True):
        # JSON, though fields that nobody here knows may say what this reader could not hold.
        msgspec.json.decode(message, type=msgspec.Raw)
    _ = record.before, record.follows(Position(1, 1))


def _delivered(data: bytes) -> None:
    try:
        told = read_tick(data)
    except UNREADABLE:
        return
    record = told.record
    partition_of(TICKS, StreamKey("coinbase", "ticker", "BTC-USD"), told.ts, 0)
    if record is None:
        return
    assert isinstance(record, Tick | Reset)
    fold = Fold(StreamKey(record.venue, record.channel, record.product))
    try:
        fold.apply(record)
    except (BadLevel, *UNREADABLE):
        return
    msgspec.json.decode(fold.state())


_BEGIN = b'"v":1,"venue":"coinbase","channel":"%b","product":"BTC-USD","shard":0,"epoch":3,"seq":9'
_TIMES = b'"ts_event":1783000000000000,"ts_ingest":1783000000000001'
_TRADE = b'"last_trade":{"price":"1","size":"2","side":"buy","trade_id":9,"time":5}'
_TICK = b'{"type":"tick",%b,"prev":8,"venue_seq":null,%b,"fields":{%b}}'
SEEDS = (
    _TICK % (_BEGIN % b"trades", _TIMES, _TRADE),
    _TICK
    % (_BEGIN % b"ticker", _TIMES, b'"best_bid":{"price":"1"},"stats_24h":{"open":"1"},' + _TRADE),
    _TICK % (_BEGIN % b"book", _TIMES, b'"changes":[["buy","1","2"],["sell","3","0"]]'),
    b'{"type":"reset",%b,"prev":null,%b,"cause":"x","repair":"snapshot","missed":{"from":1,"to":8},'
    b'"state":{"bids":[["1","2"]],"asks":[]},"prev_sub":1}' % (_BEGIN % b"book", _TIMES),
    b'{"type":"reset",%b,"prev":8,%b,"cause":"x","repair":"none"}' % (_BEGIN % b"ticker", _TIMES),
    b'{"type":"status",%b,"sub":1,"state":"stale","since":1,"evidence":"feed","ts_ingest":1}'
    % (_BEGIN % b"ticker"),
    b'{"type":"late",%b,"sub":1,"missed":{"from":1,"to":8},"ticks":[%b],"open":[{"from":1,"to":2}],'
    b'"lost":[],"reason":"","ts_ingest":1}'
    % (_BEGIN % b"trades", _TICK % (_BEGIN % b"trades", _TIMES, _TRADE)),
    b'{"type":"pulse","v":1,"venue":"coinbase","line":"a","shard":0,"ts_ingest":1,"products":["A"]}',
    # A time for which no archive object has a name.
    (
        b'{"type":"status",%b,"sub":1,"state":"stale","since":1,"evidence":"feed",'
        b'"ts_ingest":18446744073709551615}' % (_BEGIN % b"ticker")
    ),
)
