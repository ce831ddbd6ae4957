"""The README's JavaScript examples, run as they are written."""

from __future__ import annotations

from pathlib import Path

import pytest
from market_data_conformance.documents import examples, run_example
from market_data_conformance.node import WITHOUT_NODE, find_node

from services.common.stream.memory.broker import MemoryBroker
from services.gateway.testing import bench, under_load

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = examples(ROOT / "README.md", "js")
NODE = find_node()


@pytest.mark.skipif(NODE is None, reason=WITHOUT_NODE)
@pytest.mark.parametrize("code", EXAMPLES, ids=range(len(EXAMPLES)))
async def test_the_example_runs_as_written(code: str) -> None:
    assert NODE is not None
    async with bench(MemoryBroker()) as gateway:
        markets = [gateway.market(channel=channel) for channel in ("ticker", "book")]
        for market in markets:
            await market.publish(market.reset({"bids": [["1", "1"]], "asks": [["500", "1"]]}))
        async with under_load(*markets, every_s=0.02):
            status, output = await run_example(
                code,
                NODE,
                ".mjs",
                gateway.port,
                packages={"market-data-fanout-client": ROOT},
            )
        assert status == 0, output
        assert output
