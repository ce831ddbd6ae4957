"""The README's examples, run as they are written."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from market_data_conformance.documents import examples, run_example

from services.common.stream.memory.broker import MemoryBroker
from services.gateway.testing import bench, under_load

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
        async with under_load(*markets, every_s=0.02):
            status, output = await run_example(
                code,
                (sys.executable, "-W", "error"),
                ".py",
                gateway.port,
                environment={"PYTHONPATH": str(ROOT / "src")},
            )
        assert status == 0, output
        assert output
