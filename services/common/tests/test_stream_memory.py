"""The broker contract in one process's memory."""

from __future__ import annotations

import time

import pytest

from services.common.stream import Broker
from services.common.stream.memory import MemoryBroker, MemoryServer
from services.common.testing.broken import break_part
from services.common.testing.conformance import Backend, BrokerConformance, Part


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

    async def add_foreign(self, broker: Broker) -> int:
        pytest.skip("nobody else can write here")


class TestMemoryBroker(BrokerConformance):
    @pytest.fixture
    def backend(self) -> Backend:
        return _Memory()
