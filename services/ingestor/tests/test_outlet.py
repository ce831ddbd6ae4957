"""The end of the line: a full window opens a circuit, and a half-free one closes it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from prometheus_client import CollectorRegistry

from services.common.stream.broker import LogSpec, Position, Record
from services.common.stream.memory import MemoryBroker, MemoryServer
from services.common.subjects import RAW_LOG
from services.ingestor.breaker import Circuit, CircuitBreaker
from services.ingestor.metrics import Metrics
from services.ingestor.outlet import Outlet
from services.ingestor.testing import eventually

SUBJECT = "market.raw.coinbase.trades.BTC-USD"


@pytest.fixture
async def broker() -> AsyncIterator[MemoryBroker]:
    async with MemoryBroker(MemoryServer()) as broker:
        await broker.ensure([LogSpec(RAW_LOG, 600)])
        yield broker


def record(seq: int) -> Record:
    return Record(SUBJECT, b"{}", Position(1, seq))


async def test_a_full_window_opens_the_circuit_until_half_of_it_is_free(
    broker: MemoryBroker,
) -> None:
    breaker = CircuitBreaker(threshold=1, recovery_s=0.01)
    outlet = Outlet(
        await broker.publisher(max_records=10),
        Metrics(CollectorRegistry()),
        max_records=10,
        max_bytes=1 << 20,
        breaker=breaker,
    )
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
    outlet = Outlet(
        publisher,
        Metrics(CollectorRegistry()),
        max_records=10,
        max_bytes=1 << 20,
        breaker=breaker,
    )
    for seq in range(1, 9):
        outlet.offer(record(seq))
    async with asyncio.timeout(5):
        await outlet.relief()
    assert publisher.stats().in_flight <= 5
