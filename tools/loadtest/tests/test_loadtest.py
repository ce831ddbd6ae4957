"""Load on a real gateway, from several processes."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import msgspec
from market_data_fanout_client.chain import ChainCounts

from services.common.stream.memory.broker import MemoryBroker
from services.gateway.testing import bench, under_load
from tools.loadtest.counts import LoadCounts, Told
from tools.loadtest.load import Load

ROOT = Path(__file__).resolve().parents[3]


async def loadtest(port: int, *arguments: str) -> tuple[int, dict[str, Any], str]:
    """`mdf loadtest`: its exit status, its JSON, what it said meanwhile."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tools.cli", "loadtest", "--url", f"ws://127.0.0.1:{port}/ws"),
        *arguments,
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(90):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, json.loads(out) if out else {}, err.decode()


async def test_two_processes_with_churn_slow_readers_and_resumers_find_every_chain_whole() -> None:
    async with bench(MemoryBroker()) as gateway:
        market = gateway.market(padding=200)
        await market.ticks(50)
        async with under_load(market, every_s=0.03, ticks=3):
            status, result, said = await loadtest(
                gateway.port,
                *("--clients", "21", "--processes", "2", "--duration", "4", "--churn", "10"),
                *("--slow", "0.1", "--resumers", "0.3"),
            )
    assert status == 0, said
    assert result["clients"] == 21
    assert result["clients_without_ticks"] == 0
    assert (result["missed"], result["unexplained_breaks"]) == (0, 0)
    assert result["churned"] > 0
    assert result["resumed"] > 0
    assert result["snapshot_ms_p99"] > 0
    assert result["latency_ms_p50"] > 0
    assert "connected" in said
    assert "load test" in said


async def test_slow_readers_fall_behind_and_are_reported_caught_up() -> None:
    async with bench(MemoryBroker(), ws_queue_bytes=16_384) as gateway:
        market = gateway.market(padding=10_000)
        await market.ticks(1)
        async with under_load(market, every_s=0.02, ticks=2):
            status, result, said = await loadtest(
                gateway.port,
                *("--clients", "8", "--duration", "3", "--slow", "0.5", "--slow-rate", "3"),
            )
    assert status == 0, said
    # Each was taken off the live push and told, and held in the end what everyone held.
    assert result["slow_clients"] == 4
    assert result["slow_catch_ups"] >= 4
    assert result["slow_recovered"] >= 4
    assert (result["slow_behind"], result["unexplained_breaks"]) == (0, 0)


async def test_latest_mode_counts_what_was_conflated() -> None:
    async with bench(MemoryBroker()) as gateway:
        market = gateway.market()
        await market.ticks(1)
        async with under_load(market, every_s=0.02, ticks=5):
            status, result, said = await loadtest(
                gateway.port,
                *("--clients", "2", "--duration", "2", "--mode", "latest", "--max-rate", "5"),
            )
    assert status == 0, said
    assert result["conflated"] > result["ticks"]


async def test_a_gateway_that_refuses_is_said_and_fails() -> None:
    async with bench(MemoryBroker(), auth_api_keys="right") as gateway:
        status, result, said = await loadtest(gateway.port, "--clients", "1", "--api-key", "wrong")
    assert status == 1
    assert result == {}
    assert "key_invalid" in said


def test_the_shares_of_all_processes_are_the_whole() -> None:
    load = Load("ws://x/ws", ("A",), "ticker", clients=10, duration=1, ramp=9, churn=3)
    shares = [load.share(index, 3) for index in range(3)]
    assert [share.clients for share in shares] == [4, 3, 3]
    assert sum(share.ramp for share in shares) == 9
    assert sum(share.churn for share in shares) == 3


def test_counts_survive_the_way_to_another_process() -> None:
    counts = LoadCounts(clients=2, conflated=7, chains=ChainCounts(applied=3, duplicates=1))
    counts.delta.add(1500.0)
    again = msgspec.json.decode(msgspec.json.encode(Told(counts)), type=Told).counts
    assert again.result(1.0) == counts.result(1.0)
    again.add(counts)
    assert again.chains.applied == 6
    assert again.delta.count == 2
