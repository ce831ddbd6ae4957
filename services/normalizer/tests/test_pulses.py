"""Pulses go on into the logs of their products' shards, and disturb no stream."""

from __future__ import annotations

from operator import attrgetter

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.sharding import shard_of
from services.common.stream import Record
from services.common.stream.memory.broker import MemoryBroker, MemoryServer
from services.common.subjects import (
    INVALID_LOG,
    INVALID_SUBJECT,
    StreamKey,
    pulse_key,
    tick_log,
    tick_subject,
)
from services.common.testing.raw_records import RawStream, log_bytes, publish_all, raw_message
from services.common.wire import Pulse, decode_pulse, encode
from services.normalizer.normalize import Normalizer
from services.normalizer.tests.test_pipeline import (
    SHARDS,
    Connect,
    opened,
    pipeline_on,
    running,
    until_acked,
)
from services.normalizer.venues.mapping import Unmappable

KEY = pulse_key("coinbase", "line-1")
PRODUCTS = [f"P{number}-USD" for number in range(20)]


class Pulses(RawStream):
    """An ingestor's, at one a second."""

    def __init__(self) -> None:
        super().__init__(KEY)

    def beat(self, *products: str) -> None:
        self.add("pulse", self.seq + 1_000_000, {"products": products}, prev=None)


def passed_on(pulses: Pulses, shards: set[int]) -> list[Record]:
    normalizer = Normalizer(SHARDS)
    found: list[Record] = []
    for record in pulses.records:
        message = raw_message(record)
        raw = normalizer.read(message.subject, message.position, message.payload)
        found += normalizer.pulses(KEY, raw, shards)
    return found


@given(st.sets(st.sampled_from(PRODUCTS)), st.sets(st.integers(0, SHARDS - 1)))
def test_each_shard_is_told_of_its_own_products_the_same_by_whoever_works_on_it(
    products: set[str], shards: set[int]
) -> None:
    pulses = Pulses()
    pulses.beat(*products)
    (raw,) = pulses.records
    told = {}
    for out in passed_on(pulses, shards):
        pulse = decode_pulse(out.payload)
        told[pulse.shard] = set(pulse.products)
        assert out.subject == tick_subject(pulse.shard, KEY)
        assert out.position == raw_message(raw).position
        assert (pulse.ts_ingest, pulse.line) == (raw.ts_recv, raw.line)
    mine = {shard: {p for p in products if shard_of(p, SHARDS) == shard} for shard in shards}
    assert told == {shard: found for shard, found in mine.items() if found}
    alone = [out for shard in sorted(shards) for out in passed_on(pulses, {shard})]
    together = passed_on(pulses, shards)
    by_place = attrgetter("subject", "position")
    assert sorted(alone, key=by_place) == sorted(together, key=by_place)


@pytest.mark.parametrize("body", [{}, {"products": "BTC-USD"}, {"products": [1]}, []])
def test_one_that_cannot_be_read_is_refused(body: object) -> None:
    pulses = Pulses()
    pulses.add("pulse", 1, body, prev=None)
    with pytest.raises(Unmappable):
        passed_on(pulses, {0})


def test_a_pulse_among_a_streams_records_and_a_frame_among_pulses_are_refused() -> None:
    stream = RawStream(StreamKey("coinbase", "trades", "BTC-USD"))
    stream.add("pulse", 1, {"products": []})
    pulses = Pulses()
    pulses.add("frame", 1, {})
    for record in (*stream.records, *pulses.records):
        message = raw_message(record)
        with pytest.raises(Unmappable):
            Normalizer(SHARDS).read(message.subject, message.position, message.payload)


async def test_pulses_pass_between_ticks_and_change_none_of_them(connect: Connect) -> None:
    stream = RawStream(StreamKey("coinbase", "trades", "BTC-USD"))
    pulses = Pulses()
    mixed = []
    for trade_id in range(1, 30):
        stream.match(trade_id)
        pulses.beat("BTC-USD")
        mixed += [stream.records[-1], pulses.records[-1]]
    pulses.add("pulse", pulses.seq + 1, "nonsense", prev=None)
    mixed.append(pulses.records[-1])
    shard = shard_of("BTC-USD", SHARDS)
    async with opened(connect) as broker:
        await publish_all(broker, mixed)
        pipeline = pipeline_on(broker)
        async with running(pipeline):
            await until_acked(pipeline)
        with_pulses = await log_bytes(broker, tick_log(shard))
        page = await broker.read(tick_subject(shard, KEY))
        beats = [decode_pulse(message.payload) for message in page.messages]
        parked = await log_bytes(broker, INVALID_LOG)
    assert [pulse.ts_ingest for pulse in beats] == [r.ts_recv for r in pulses.records[:-1]]
    assert [len(found) for found in parked.values()] == [1]
    assert list(parked) == [INVALID_SUBJECT]
    async with opened(lambda: MemoryBroker(MemoryServer())) as broker:
        await publish_all(broker, stream.records)
        pipeline = pipeline_on(broker)
        async with running(pipeline):
            await until_acked(pipeline)
        assert await log_bytes(broker, tick_log(shard)) == with_pulses


def test_what_is_written_is_a_pulse_and_nothing_more() -> None:
    pulses = Pulses()
    pulses.beat("BTC-USD")
    (out,) = passed_on(pulses, set(range(SHARDS)))
    record = msgspec.json.decode(out.payload)
    assert encode(decode_pulse(out.payload)) == out.payload
    assert record.keys() == {f.name for f in msgspec.structs.fields(Pulse)} | {"type"}
