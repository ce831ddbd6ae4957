"""The JavaScript SDK's own tests in Node, against a real gateway and a line that breaks."""

from __future__ import annotations

import asyncio
import json
import os
import re
from pathlib import Path

import pytest
from market_data_conformance.node import WITHOUT_NODE, find_node
from market_data_conformance.proxy import BreakingProxy

from services.common.stream.memory import MemoryBroker
from services.gateway.testing import bench

ROOT = Path(__file__).resolve().parents[1]
NODE = find_node()
RECONNECTS = 100


@pytest.mark.skipif(NODE is None, reason=WITHOUT_NODE)
async def test_the_sdk_in_node_and_100_reconnects_give_every_tick_once_in_order() -> None:
    assert NODE is not None
    async with (
        bench(MemoryBroker(), ws_burst=1000) as gateway,
        bench(MemoryBroker(), auth_api_keys="right") as keyed,
        BreakingProxy(gateway.port, mean_s=0.05) as proxy,
    ):
        await keyed.market().ticks(1)
        bitcoin, ether = gateway.market(), gateway.market("ETH-USD")
        # On the breaking line; its load begins with the test, or one backfill would never fit.
        solana = gateway.market("SOL-USD")
        await solana.ticks(1)
        book = gateway.market(channel="book")
        await book.publish(book.reset({"bids": [["1", "1"]], "asks": [["500", "1"]]}))

        async def load() -> None:
            while True:
                for market in (bitcoin, ether, book):
                    await market.ticks(2)
                if proxy.connections:
                    await solana.ticks(1)
                await asyncio.sleep(0.004)

        async with asyncio.TaskGroup() as group:
            loading = group.create_task(load())
            process = await asyncio.create_subprocess_exec(
                *NODE,
                "--test",
                "--test-reporter=tap",
                *sorted(str(path) for path in (ROOT / "tests").glob("*.test.js")),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env={
                    **os.environ,
                    "GATEWAY_URL": f"ws://127.0.0.1:{gateway.port}/ws",
                    "KEYED_URL": f"ws://127.0.0.1:{keyed.port}/ws",
                    "BREAKING_URL": f"ws://127.0.0.1:{proxy.port}/ws",
                    "RECONNECTS": str(RECONNECTS),
                },
            )
            try:
                async with asyncio.timeout(90):
                    raw, _ = await process.communicate()
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
            loading.cancel()
        output = raw.decode()
        assert process.returncode == 0, output
        assert re.search(r"^# skipped 0$", output, re.MULTILINE), output
        assert proxy.cuts >= RECONNECTS
        found = re.search(r"# ticks (\[.*\])", output)
        assert found, output
        ticks = json.loads(found[1])
        assert ticks == solana.chain[: len(ticks)]
