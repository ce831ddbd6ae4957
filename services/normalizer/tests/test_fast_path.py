"""The fast path gives the bytes that the slow one gives, or none."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.common.stream import Message, Position, Record
from services.common.stream.memory.records import StoredRecord
from services.common.stream.nats.records import NatsMessage, message_id
from services.common.stream.redis.records import RedisMessage, Source, entry_id
from services.common.subjects import StreamKey, raw_subject
from services.common.testing.raw_records import EPOCH, RawStream, raw_message
from services.common.wire import RawRecord, encode
from services.normalizer.chain import ChainVerdict
from services.normalizer.fast_path import FrameRecord
from services.normalizer.normalize import Normalizer
from services.normalizer.venues.mapping import Unmappable

SHARDS = 8
KEYS = [StreamKey("coinbase", channel, "BTC-USD") for channel in ("ticker", "trades", "book")]
HELD = Position(EPOCH, 1000)


def stored(record: Record) -> Message:
    return StoredRecord(record, 1, "1", 0.0)


def plainly(normalizer: Normalizer, key: StreamKey, message: Message) -> list[Record] | None:
    """What the plain way writes; None where it refuses anything."""
    try:
        raw = normalizer.read(message.subject, message.position, message.payload)
    except Unmappable:
        return None
    if normalizer.chain.judge(key, raw) is not ChainVerdict.NEXT:
        return None
    output = normalizer.normalize(key, raw)
    return None if output.refused else list(output.records)


def shortly(normalizer: Normalizer, message: Message) -> list[Record] | None:
    record = normalizer.fast_path.normalize(message)
    return None if record is None else [record]


def both(key: StreamKey, message: Message, held: Position = HELD) -> tuple[Any, Any]:
    """The answers of the two ways, each with the place that is held afterwards."""
    short, plain = Normalizer(SHARDS), Normalizer(SHARDS)
    short.chain.restore(key, held)
    plain.chain.restore(key, held)
    answers = shortly(short, message), plainly(plain, key, message)
    if answers[0] is None:
        assert short.chain.held(key) == held
    else:
        assert short.chain.held(key) == plain.chain.held(key)
    return answers


def frame(key: StreamKey) -> dict[str, Any]:
    """A frame of the fast path behind HELD, as JSON."""
    stream = RawStream(key)
    stream.seq = HELD.seq
    if key.channel == "trades":
        raw = stream.match(1001)
    elif key.channel == "ticker":
        raw = stream.ticker(1042)
    else:
        raw = stream.changes(1042, [("buy", "10.5", "1"), ("sell", "11", "0.00000000")])
    found: dict[str, Any] = json.loads(encode(raw))
    return found


def record_of(key: StreamKey, value: dict[str, Any], *, compact: bool = True) -> Record:
    separators = (",", ":") if compact else (" , ", " : ")
    payload = json.dumps(value, separators=separators).encode()
    numbers = [value.get(name) for name in ("epoch", "seq", "sub")]
    position = Position(*(n if isinstance(n, int) and n >= 0 else 0 for n in numbers))
    return Record(raw_subject(key), payload, position)


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_the_most_frequent_frames_give_what_the_slow_path_gives(key: StreamKey) -> None:
    short, plain = both(key, stored(record_of(key, frame(key))))
    assert short is not None
    assert short == plain


def test_what_it_reads_has_the_fields_of_a_raw_record_in_their_order() -> None:
    """A field that is added to one of them only would be passed over here, or refused."""
    of_frames = [field.encode_name for field in msgspec.structs.fields(FrameRecord)]
    assert of_frames == [field.encode_name for field in msgspec.structs.fields(RawRecord)]


JSON = st.none() | st.integers(-2, 2**64) | st.sampled_from(
    ["", "buy", "sell", "1", "1.50", "-1", "1e5", "0x", '"', "é", "\\u0031", "BTC-USD", "1 2"]
)  # fmt: skip
ROWS = st.lists(
    st.lists(st.sampled_from(["buy", "sell", "1", "2.5", "x", "1 ", '"', ","]), max_size=4)
    | st.tuples(st.sampled_from(["buy", "sell"]), st.just("1.0"), st.just("0")),
    max_size=4,
)


@given(st.data(), st.booleans())
def test_a_record_with_anything_odd_gives_the_same_bytes_or_is_left_to_the_plain_way(
    data: st.DataObject, compact: bool
) -> None:
    key = data.draw(st.sampled_from(KEYS))
    value = frame(key)
    for _ in range(data.draw(st.integers(0, 2))):
        part = value if data.draw(st.booleans()) else value.get("body")
        if not isinstance(part, dict):
            continue
        name = data.draw(st.sampled_from([*part, "changes", "later"]))
        if name == "changes":
            part[name] = data.draw(ROWS | JSON)
        elif data.draw(st.booleans()):
            part.pop(name, None)
        else:
            part[name] = data.draw(JSON)
    record = record_of(key, value, compact=compact)
    short, plain = both(key, stored(record))
    assert short is None or short == plain


@given(st.integers(0, 1200), st.integers(0, 3), st.integers(-1, 1), st.integers(0, 1200))
@example(HELD.seq, 0, 0, HELD.seq)
@example(0, 0, 0, 0)
def test_only_what_directly_follows_is_taken(held: int, sub: int, epoch: int, prev: int) -> None:
    """Any held position, against a frame at 1042 that names any predecessor."""
    key = KEYS[0]
    value = frame(key) | {"prev": prev, "prev_sub": 0}
    short, plain = both(key, stored(record_of(key, value)), Position(EPOCH + epoch, held, sub))
    assert short is None or short == plain
    assert (short is not None) == (held == prev and 0 < prev < 1042 and sub == epoch == 0)


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_a_stream_is_taken_from_its_second_record_on_and_mixes_with_the_plain_way(
    key: StreamKey,
) -> None:
    stream = RawStream(key)
    for step in range(1, 30):
        if step % 9 == 0:
            stream.status()
        elif key.channel == "trades":
            stream.match(step)
        elif key.channel == "ticker":
            stream.ticker(step * 10)
        else:
            stream.changes(step * 10, [("buy", "1", "2")])
    short, plain = Normalizer(SHARDS), Normalizer(SHARDS)
    found: list[Record] = []
    taken = 0
    for raw in stream.records:
        message = stored(raw_message(raw))
        ticks = shortly(short, message)
        if ticks is None:
            ticks = list(short.normalize(key, raw).records)
        else:
            taken += 1
        found += ticks
    assert found == [out for raw in stream.records for out in plain.normalize(key, raw).records]
    # All but the first record and the statuses.
    assert taken == 29 - 1 - 3


@given(st.integers(0, 2**50), st.integers(0, 2**50), st.integers(0, 5), st.integers(0, 2))
def test_whether_a_message_is_at_a_position_is_told_as_by_reading_it(
    epoch: int, seq: int, sub: int, off: int
) -> None:
    subject = raw_subject(KEYS[0])
    position = Position(epoch, seq, sub)
    record = Record(subject, b"{}", position)
    block = f"NATS/1.0\r\nNats-Msg-Id: {message_id(subject, position)}\r\n\r\n".encode()
    messages: list[Message] = [
        NatsMessage(subject, b"{}", block, 1),
        NatsMessage(subject, b"{}", block.replace(b"Id: ", b"Id:  "), 1),
        NatsMessage(subject, b"{}", block.replace(b"1.0\r\n", b"1.0\r\na: b\r\n"), 1),
        RedisMessage(Source(subject, epoch), entry_id(position).encode(), {b"p": b"{}"}, 1),
        stored(record),
    ]
    asked = Position(epoch + (off == 1), seq + (off == 2), sub)
    for message in messages:
        assert message.is_at(*asked) == (message.position == asked)
