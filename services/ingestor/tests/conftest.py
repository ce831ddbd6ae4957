"""What most of these tests stand on; a file that needs another broker or market makes its own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from services.common.stream.memory.broker import MemoryBroker
from tools.simulator import SimulatedExchange


@pytest.fixture
async def broker() -> AsyncIterator[MemoryBroker]:
    async with MemoryBroker() as broker:
        yield broker


@pytest.fixture
async def exchange() -> AsyncIterator[SimulatedExchange]:
    """A market of two products that moves only when told to."""
    async with SimulatedExchange(products=("BTC-USD", "ETH-USD"), paced=False) as exchange:
        yield exchange
