"""The JavaScript SDK's own tests in Node, against a real gateway and a line that breaks."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from market_data_conformance.documents import run_program
from market_data_conformance.node import WITHOUT_NODE, find_node
from market_data_conformance.proxy import BreakingProxy

from services.common.stream.memory.broker import MemoryBroker
from services.gateway.testing import bench, under_load

ROOT = Path(__file__).resolve().parents[1]
NODE = find_node()
RECONNECTS = 100


@pytest.mark.skipif(NODE is None, reason=WITHOUT_NODE)
async def test_the_sdk_in_node_and_100_reconnects_give_every_tick_once_in_order() -> None:
    assert NODE is not None
    async with (
        bench(MemoryBroker(), ws_burst=1000) as gateway,
        bench(MemoryBroker(), auth_api_keys="right") as keyed,
        BreakingProxy(gateway.port, mean_s=0.03) as by_time,
        BreakingProxy(gateway.port, mean_bytes=20_000) as by_bytes,
    ):
        await keyed.market().ticks(1)
        bitcoin, ether = gateway.market(), gateway.market("ETH-USD")
        # On the breaking lines.
        solana, solanas = gateway.market("SOL-USD"), gateway.market("SOL-USD", "book")
        await solana.ticks(1)
        book = gateway.market(channel="book")
        for market in (book, solanas):
            await market.publish(market.reset({"bids": [["1", "1"]], "asks": [["500", "1"]]}))
        async with (
            under_load(bitcoin, ether, book, every_s=0.004, ticks=2),
            under_load(solana, solanas, every_s=0.004),
        ):
            status, output = await run_program(
                *(*NODE, "--test", "--test-reporter=tap"),
                *sorted(str(path) for path in (ROOT / "tests").glob("*.test.js")),
                environment={
                    "GATEWAY_URL": f"ws://127.0.0.1:{gateway.port}/ws",
                    "KEYED_URL": f"ws://127.0.0.1:{keyed.port}/ws",
                    "BREAKING_BY_TIME_URL": f"ws://127.0.0.1:{by_time.port}/ws",
                    "BREAKING_BY_BYTES_URL": f"ws://127.0.0.1:{by_bytes.port}/ws",
                    "RECONNECTS": str(RECONNECTS),
                },
            )
        assert status == 0, output
        assert re.search(r"^# skipped 0$", output, re.MULTILINE), output
        found = [json.loads(text) for text in re.findall(r"# held (\{.*\})", output)]
        assert [held["by"] for held in found] == ["time", "bytes"], output
        for held, proxy in zip(found, (by_time, by_bytes), strict=True):
            assert proxy.cuts >= RECONNECTS
            assert held["ticker"] == solana.chain[: len(held["ticker"])]
            # The book's chain begins with the reset that held its first state.
            assert held["book"] == solanas.chain[1 : len(held["book"]) + 1]
            until = solanas.chain.index(held["at"])
            changes = solanas.chain[1 : until + 1]
            bids = {1, *(seq % 100 + 1 for seq in changes)}
            assert [int(level["price"]) for level in held["bids"]] == sorted(bids, reverse=True)
            assert held["asks"] == [{"price": "500", "size": str(changes[-1])}]
