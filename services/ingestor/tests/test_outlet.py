"""The end of the line: a full window opens a circuit, and a half-free one closes it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from services.common.resilience.circuit_breaker import Circuit, CircuitBreaker
from services.common.stream.broker import LogSpec, Position, Publisher, Record
from services.common.stream.invalid_log import InvalidLog
from services.common.stream.memory.broker import MemoryBroker, MemoryServer
from services.common.subjects import INVALID_LOG, INVALID_SUBJECT, RAW_LOG, StreamKey
from services.common.wire import GapBody, Missed, Parked, decode_raw, encode
from services.ingestor.metrics import Metrics
from services.ingestor.publish.dead_letters import Parking
from services.ingestor.publish.raw_publisher import Outlet
from services.ingestor.streams.raw_writer import Journal, gap_instead
from services.ingestor.testing import eventually, raw_records

SUBJECT = "market.raw.coinbase.trades.BTC-USD"


@pytest.fixture
async def broker() -> AsyncIterator[MemoryBroker]:
    async with MemoryBroker(MemoryServer()) as broker:
        await broker.ensure([LogSpec(RAW_LOG, 600)])
        yield broker


def outlet_on(
    broker: MemoryBroker, publisher: Publisher, breaker: CircuitBreaker
) -> tuple[Outlet, Parking]:
    metrics = Metrics(CollectorRegistry())
    parking = Parking(InvalidLog(broker), metrics)
    limits = {"max_records": 10, "max_bytes": 1 << 20}
    return Outlet(publisher, metrics, parking, **limits, breaker=breaker), parking


def record(seq: int) -> Record:
    return Record(SUBJECT, b"{}", Position(1, seq))


async def test_a_full_window_opens_the_circuit_until_half_of_it_is_free(
    broker: MemoryBroker,
) -> None:
    breaker = CircuitBreaker(threshold=1, recovery_s=0.01)
    outlet, _ = outlet_on(broker, await broker.publisher(max_records=10), breaker)
    # Nothing is stored before the event loop gets a turn.
    taken = [outlet.offer(record(seq)) for seq in range(1, 14)]
    assert taken == [True] * 10 + [False] * 3
    assert breaker.state is Circuit.OPEN
    assert outlet.refused == 3
    assert not outlet.has_room()
    await eventually(outlet.has_room, "half of the window is free")
    assert breaker.state.name == "CLOSED"
    assert outlet.offer(record(14))
    assert await outlet.flush(5.0) == 0


async def test_relief_waits_for_a_busy_broker_only(broker: MemoryBroker) -> None:
    breaker = CircuitBreaker(threshold=1, recovery_s=60.0)
    publisher = await broker.publisher(max_records=10)
    outlet, _ = outlet_on(broker, publisher, breaker)
    for seq in range(1, 9):
        outlet.offer(record(seq))
    async with asyncio.timeout(5):
        await outlet.relief()
    assert publisher.stats().in_flight <= 5


async def test_a_trade_that_the_log_cannot_hold_is_parked_and_a_gap_stands_in_its_place(
    broker: MemoryBroker,
) -> None:
    await broker.ensure([LogSpec(INVALID_LOG, 600)])
    broker.server.max_payload = 2000
    breaker = CircuitBreaker(threshold=1, recovery_s=60.0)
    outlet, parking = outlet_on(broker, await broker.publisher(), breaker)
    journal = Journal(StreamKey("coinbase", "trades", "BTC-USD"), "line", outlet.offer, epoch=1)
    assert journal.frame(1, b'{"trade_id":1}', 1)
    assert journal.frame(2, b'{"trade_id":2,"padding":"%b"}' % (b"x" * 3000), 2)
    assert journal.frame(3, b'{"trade_id":3}', 3)
    assert await outlet.flush(5.0) == 0
    await parking.flush()
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
    outlet, _ = outlet_on(broker, await broker.publisher(), breaker)
    journal = Journal(StreamKey("coinbase", "book", "BTC-USD"), "line", outlet.offer, epoch=1)
    assert journal.frame(5, b'{"changes":[]}', 1)
    assert not journal.frame(6, b'{"changes":["%b"]}' % (b"x" * 3000), 2)
    assert journal.seq == 5
    assert outlet.refused == 1
    # The circuit is for a broker that is away.
    assert breaker.state is Circuit.CLOSED


def test_a_gap_stands_in_for_a_trade_only_and_not_where_it_would_have_to_list_open_gaps() -> None:
    taken: list[Record] = []

    def offer(each: Record) -> bool:
        taken.append(each)
        return True

    for channel in ("trades", "book", "ticker"):
        journal = Journal(StreamKey("coinbase", channel, "BTC-USD"), "line", offer, epoch=1)
        assert journal.frame(7, b"{}", 1)
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
