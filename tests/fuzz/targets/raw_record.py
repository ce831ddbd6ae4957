"""A record of the raw log: ticks, or `Unmappable`; what is published can be read by everybody.

The record stands at the place that it names itself, as the log would have it. The quick way and the
long one say the same, and who reads the log again writes the same bytes.
"""

from __future__ import annotations

import contextlib

import msgspec

from services.common.errors import InvalidSubject, RecordRefused
from services.common.stream.records import MAX_NUMBER, Position, check_record
from services.common.subjects import StreamKey, raw_subject
from services.common.wire import UNREADABLE, decode_pulse, decode_raw, encode
from services.gateway.chain.stream_record import StreamRecord
from services.normalizer.normalize import Normalizer
from services.normalizer.venues.mapping import Unmappable
from services.snapshotter.intake.delivered import read_raw, read_tick

_SHARDS = 4


def _subject_and_place(data: bytes) -> tuple[str, Position]:
    try:
        raw = decode_raw(data)
        key = StreamKey(raw.venue, raw.channel, raw.product)
        return raw_subject(key), Position(raw.epoch, raw.seq, raw.sub)
    except (*UNREADABLE, InvalidSubject):
        return "market.raw.coinbase.ticker.BTC-USD", Position(1, 1)


def check(data: bytes) -> None:
    subject, place = _subject_and_place(data)
    with contextlib.suppress(*UNREADABLE):
        read_raw(data)
    if not all(0 <= number <= MAX_NUMBER for number in place) or not any(place[1:]):
        # No log holds such a record: it would refuse it.
        return
    first = _written(subject, place, data)
    assert _written(subject, place, data) == first


def _written(subject: str, place: Position, data: bytes) -> list[bytes]:
    normalizer = Normalizer(_SHARDS)
    try:
        raw = normalizer.read(subject, place, data)
        key = StreamKey(raw.venue, raw.channel, raw.product)
        if raw.kind == "pulse":
            pulses = normalizer.pulses(key, raw, range(_SHARDS))
            return [encode(decode_pulse(record.payload)) for record in pulses]
        # A record for which there is nothing else to do is judged first.
        normalizer.chain.judge(key, raw)
        made = normalizer.normalize(key, raw)
    except Unmappable as refused:
        return [refused.code.encode()]
    for record in made.records:
        try:
            check_record(record)
        except RecordRefused:
            continue
        read_tick(record.payload)
        found = StreamRecord(record.payload)
        assert found.unreadable is None, record.payload
        assert found.position == record.position
        for message in found.messages(late=True):
            msgspec.json.decode(message)
    return [record.payload for record in made.records]


_BEGIN = (
    b'{"v":1,"kind":"%b","venue":"coinbase","channel":"%b","product":"BTC-USD","epoch":3,"seq":%d,'
    b'"sub":%d,"prev":%b,"ts_recv":1783000000000000,"line":"a","body":%b,"prev_sub":0}'
)
_MATCH = (
    b'{"type":"match","trade_id":9,"side":"buy","size":"0.1","price":"100.5",'
    b'"product_id":"BTC-USD","sequence":90,"time":"2026-07-07T22:58:17.050195Z"}'
)
_TICKER = b'{"type":"ticker","sequence":9,"product_id":"BTC-USD","price":"1.5","best_bid":"1"}'
_UPDATE = b'{"type":"l2update","product_id":"BTC-USD","changes":[["buy","1","2"]]}'
_BOOK = b'{"bids":[["1","2"]],"asks":[["3","4"]]}'
SEEDS = (
    _BEGIN % (b"frame", b"trades", 9, 0, b"8", _MATCH),
    _BEGIN % (b"frame", b"ticker", 9, 0, b"null", _TICKER),
    _BEGIN % (b"frame", b"book", 9, 0, b"8", _UPDATE),
    _BEGIN
    % (b"resync", b"book", 9, 0, b"8", b'{"cause":"x","repair":"snapshot","message":%b}' % _BOOK),
    _BEGIN
    % (b"gap", b"trades", 9, 0, b"8", b'{"cause":"x","missed":{"from":5,"to":9},"message":[]}'),
    _BEGIN % (b"status", b"trades", 9, 1, b"9", b'{"state":"live","since":1,"evidence":"feed"}'),
    _BEGIN
    % (
        *(b"late", b"trades", 9, 1, b"9"),
        b'{"missed":{"from":5,"to":8},"messages":[%b],"open":[],"lost":[],"reason":""}' % _MATCH,
    ),
    _BEGIN % (b"pulse", b"pulse", 1783000000000000, 0, b"null", b'{"products":["BTC-USD","A"]}'),
    # Received at a time for which no archive object has a name.
    (_BEGIN % (b"frame", b"ticker", 9, 0, b"null", _TICKER)).replace(b"1783000000000000", b"-1"),
)
