"""The broker contract in one process's memory."""

from __future__ import annotations

import asyncio
import time

import pytest

from services.common.stream import Broker, LogSpec
from services.common.stream.memory.broker import MemoryBroker, MemoryServer
from services.common.testing.broken import break_part
from services.common.testing.conformance import (
    LOG,
    PATIENCE_S,
    Backend,
    Part,
    read_all,
    record,
    seqs,
)
from services.common.testing.conformance.suite import BrokerConformance


class _Memory(Backend):
    too_large = 8 * 1024 * 1024 + 1

    def __init__(self) -> None:
        self.ahead = 0.0
        self.server = MemoryServer(clock=lambda: time.monotonic() + self.ahead)

    def broker(self) -> Broker:
        return MemoryBroker(self.server)

    async def kill(self) -> None:
        self.server.stop()

    async def start(self) -> None:
        self.server.start()

    async def wipe(self) -> None:
        self.server.wipe()

    async def expire(self, broker: Broker) -> None:
        self.ahead += 0.5

    async def break_part(self, part: Part) -> None:
        break_part(part)

    async def delete_group(self, broker: Broker, group: str) -> None:
        assert isinstance(broker, MemoryBroker)
        del broker.log(LOG).groups[group]

    async def kept(self, broker: Broker, group: str) -> int:
        assert isinstance(broker, MemoryBroker)
        return broker.log(LOG).acked.get(group, 0)

    async def refuse(self, broker: Broker) -> None:
        # In the next turn: at the door it would be seen at once.
        asyncio.get_running_loop().call_soon(setattr, self.server, "max_payload", 1000)

    async def add_foreign(self, broker: Broker) -> int:
        pytest.skip("nobody else can write here")


class TestMemoryBroker(BrokerConformance):
    @pytest.fixture
    def backend(self) -> Backend:
        return _Memory()

    async def test_a_record_that_somebody_went_past_is_told_as_lost_and_not_counted_as_there(
        self, broker: Broker
    ) -> None:
        await broker.publish(record(1), record(2), record(4))
        publisher = await broker.publisher()
        for n in (2, 3, 4, 5):
            await publisher.send(record(n))
        await publisher.flush()
        stats = publisher.stats()
        assert (stats.stored, stats.duplicates, stats.lost) == (1, 2, 1)
        assert seqs(await read_all(broker)) == [1, 2, 4, 5]

    async def test_a_record_whose_log_is_gone_waits_for_it_in_front_of_the_next(
        self, broker: Broker, backend: Backend
    ) -> None:
        other = backend.broker()
        publisher = await other.publisher()
        await publisher.send(record(1))
        await publisher.send(record(2))
        await backend.wipe()
        await asyncio.sleep(0)
        assert publisher.stats().in_flight == 2
        assert publisher.stats().trouble is not None
        await broker.ensure([LogSpec(LOG, 3600)])
        async with asyncio.timeout(PATIENCE_S):
            await publisher.flush()
        assert seqs(await read_all(broker)) == [1, 2]
        assert publisher.stats().trouble is None
