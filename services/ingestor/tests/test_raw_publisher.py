"""The end of the line: a full window opens a circuit, and a half-free one closes it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from services.common.resilience import Circuit, CircuitBreaker
from services.common.stream import LogSpec, Position, Publisher, Record
from services.common.stream.dead_letters import DeadLetters, InvalidLog
from services.common.stream.memory.broker import MemoryBroker, MemoryServer
from services.common.subjects import INVALID_LOG, INVALID_SUBJECT, RAW_LOG, StreamKey
from services.common.testing.conformance import read_all
from services.common.testing.waiting import WAIT_S
from services.common.wire import GapBody, Missed, Parked, decode_raw, encode
from services.ingestor.metrics import Metrics
from services.ingestor.publish.raw_publisher import RawPublisher, UnreadableFrames
from services.ingestor.streams.raw_writer import RawStreamWriter, gap_instead
from services.ingestor.testing import eventually, raw_records

SUBJECT = "market.raw.coinbase.trades.BTC-USD"


@pytest.fixture
async def broker() -> AsyncIterator[MemoryBroker]:
    async with MemoryBroker(MemoryServer()) as broker:
        await broker.ensure([LogSpec(RAW_LOG, 600)])
        yield broker


def raw_publisher_on(
    broker: MemoryBroker, publisher: Publisher, breaker: CircuitBreaker
) -> tuple[RawPublisher, DeadLetters]:
    metrics = Metrics(CollectorRegistry())
    dead_letters = DeadLetters(InvalidLog(broker))
    return RawPublisher(
        publisher,
        metrics,
        UnreadableFrames(dead_letters, metrics),
        max_records=10,
        max_bytes=1 << 20,
        breaker=breaker,
    ), dead_letters


def record(seq: int) -> Record:
    return Record(SUBJECT, b"{}", Position(1, seq))


async def test_a_line_that_may_not_write_takes_nothing_and_the_broker_is_not_blamed(
    broker: MemoryBroker,
) -> None:
    breaker = CircuitBreaker(threshold=1, recovery_s=0.01)
    raw_publisher, _ = raw_publisher_on(broker, await broker.publisher(), breaker)
    answers = iter([True, False, True])
    raw_publisher.may_write = lambda: next(answers)
    assert [raw_publisher.offer(record(seq)) for seq in (1, 2, 3)] == [True, False, True]
    assert raw_publisher.refused == 1
    assert breaker.state is Circuit.CLOSED
    assert await raw_publisher.flush(10) == 0
    assert [each.position.seq for each in await read_all(broker, SUBJECT)] == [1, 3]


async def test_a_full_window_opens_the_circuit_until_half_of_it_is_free(
    broker: MemoryBroker,
) -> None:
    breaker = CircuitBreaker(threshold=1, recovery_s=0.01)
    raw_publisher, _ = raw_publisher_on(broker, await broker.publisher(max_records=10), breaker)
    # Nothing is stored before the event loop gets a turn.
    taken = [raw_publisher.offer(record(seq)) for seq in range(1, 14)]
    assert taken == [True] * 10 + [False] * 3
    assert breaker.state is Circuit.OPEN
    assert raw_publisher.refused == 3
    assert not raw_publisher.has_room()
    await eventually(raw_publisher.has_room, "half of the window is free")
    assert breaker.state.name == "CLOSED"
    assert raw_publisher.offer(record(14))
    assert await raw_publisher.flush(WAIT_S) == 0


async def test_backpressure_waits_for_a_busy_broker_only(broker: MemoryBroker) -> None:
    breaker = CircuitBreaker(threshold=1, recovery_s=60.0)
    publisher = await broker.publisher(max_records=10)
    raw_publisher, _ = raw_publisher_on(broker, publisher, breaker)
    for seq in range(1, 9):
        raw_publisher.offer(record(seq))
    async with asyncio.timeout(WAIT_S):
        await raw_publisher.backpressure()
    assert publisher.stats().in_flight <= 5


async def test_a_trade_that_the_log_cannot_hold_is_parked_and_a_gap_stands_in_its_place(
    broker: MemoryBroker,
) -> None:
    await broker.ensure([LogSpec(INVALID_LOG, 600)])
    broker.server.max_payload = 2000
    breaker = CircuitBreaker(threshold=1, recovery_s=60.0)
    raw_publisher, dead_letters = raw_publisher_on(broker, await broker.publisher(), breaker)
    writer = RawStreamWriter(
        StreamKey("coinbase", "trades", "BTC-USD"), "line", raw_publisher.offer, epoch=1
    )
    assert writer.frame(1, b'{"trade_id":1}', 1)
    assert writer.frame(2, b'{"trade_id":2,"padding":"%b"}' % (b"x" * 3000), 2)
    assert writer.frame(3, b'{"trade_id":3}', 3)
    assert await raw_publisher.flush(WAIT_S) == 0
    await dead_letters.flush()
    records = await raw_records(broker, "trades", "BTC-USD")
    assert [(each.kind, each.seq, each.prev) for each in records] == [
        ("frame", 1, None),
        ("gap", 2, 1),
        ("frame", 3, 2),
    ]
    gap = msgspec.json.decode(records[1].body, type=GapBody)
    assert gap.cause == "record_refused"
    assert gap.missed == Missed(2, 2, 1)
    page = await broker.read(INVALID_SUBJECT)
    (parked,) = [msgspec.json.decode(message.payload, type=Parked) for message in page.messages]
    assert parked.reason == "record_too_large"
    assert parked.original.startswith('{"v":1,"kind":"frame"')


async def test_a_book_that_the_log_cannot_hold_is_parked_and_not_taken(
    broker: MemoryBroker,
) -> None:
    await broker.ensure([LogSpec(INVALID_LOG, 600)])
    broker.server.max_payload = 2000
    breaker = CircuitBreaker(threshold=1, recovery_s=60.0)
    raw_publisher, _ = raw_publisher_on(broker, await broker.publisher(), breaker)
    writer = RawStreamWriter(
        StreamKey("coinbase", "book", "BTC-USD"), "line", raw_publisher.offer, epoch=1
    )
    assert writer.frame(5, b'{"changes":[]}', 1)
    assert not writer.frame(6, b'{"changes":["%b"]}' % (b"x" * 3000), 2)
    assert writer.seq == 5
    assert raw_publisher.refused == 1
    # The circuit is for a broker that is away.
    assert breaker.state is Circuit.CLOSED


def test_a_gap_stands_in_for_a_trade_only_and_not_where_it_would_have_to_list_open_gaps() -> None:
    taken: list[Record] = []

    def offer(each: Record) -> bool:
        taken.append(each)
        return True

    for channel in ("trades", "book", "ticker"):
        writer = RawStreamWriter(StreamKey("coinbase", channel, "BTC-USD"), "line", offer, epoch=1)
        assert writer.frame(7, b"{}", 1)
    trade, book, ticker = taken
    assert gap_instead(book) is gap_instead(ticker) is None
    gap = gap_instead(trade)
    assert gap is not None
    assert (gap.subject, gap.position) == (trade.subject, trade.position)
    raw, told = decode_raw(gap.payload), decode_raw(trade.payload)
    assert raw.kind == "gap"
    assert (raw.seq, raw.prev, raw.prev_sub, raw.ts_recv) == (7, None, None, told.ts_recv)
    assert msgspec.json.decode(raw.body, type=GapBody).missed == Missed(7, 7, 1)
    listed = msgspec.structs.replace(told, open_at=(5, 1))
    assert gap_instead(msgspec.structs.replace(trade, payload=encode(listed))) is None
