"""The README's examples, run as they are written."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
from market_data_conformance.documents import examples, run_example

from services.common.stream.memory.broker import MemoryBroker
from services.gateway.testing import bench

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = examples(ROOT / "README.md", "python")


@pytest.mark.parametrize("code", EXAMPLES, ids=range(len(EXAMPLES)))
async def test_the_example_runs_as_written(code: str) -> None:
    async with bench(MemoryBroker()) as gateway:
        markets = [
            gateway.market(product, channel)
            for product in ("BTC-USD", "ETH-USD")
            for channel in ("ticker", "trades", "book")
        ]
        for market in markets:
            await market.publish(market.reset({"bids": [["1", "1"]], "asks": [["500", "1"]]}))

        async def load() -> None:
            while True:
                for market in markets:
                    await market.ticks(1)
                await asyncio.sleep(0.02)

        async with asyncio.TaskGroup() as group:
            loading = group.create_task(load())
            status, output = await run_example(
                code,
                (sys.executable, "-W", "error"),
                ".py",
                gateway.port,
                environment={"PYTHONPATH": str(ROOT / "src")},
            )
            loading.cancel()
        assert status == 0, output
        assert output
