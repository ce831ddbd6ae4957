from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator

import httpx
import msgspec
import pytest
from click.testing import CliRunner

from tools.simulator import SimulatedExchange
from tools.simulator.command import simulate
from tools.simulator.testing import FeedClient


@contextlib.asynccontextmanager
async def simulating(environment: dict[str, str]) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tools.simulator", "--port", "0", "--log-format", "json"),
        *("--products", "BTC-USD,ETH-USD", "--seed", "11", "--rate", "300"),
        stderr=asyncio.subprocess.PIPE,
        env=environment,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def listening(server: asyncio.subprocess.Process) -> dict[str, object]:
    assert server.stderr is not None
    line: dict[str, object] = {}
    async with asyncio.timeout(60):
        while line.get("event") != "exchange_listening":
            line = msgspec.json.decode(await server.stderr.readline())
    return line


@pytest.fixture
async def server() -> AsyncIterator[asyncio.subprocess.Process]:
    async with simulating(dict(os.environ)) as process:
        yield process


async def test_by_default_books_are_as_large_and_traffic_as_uneven_as_the_venue_s() -> None:
    plain = {key: value for key, value in os.environ.items() if not key.startswith("SIM_")}
    async with simulating(plain) as server:
        address = await listening(server)
        async with FeedClient(str(address["ws_url"])) as client:
            await client.subscribe(["level2_batch"], ["BTC-USD"])
            snapshot = await client.until_type("snapshot")
            assert len(snapshot["bids"]) > 14_000
            assert len(snapshot["asks"]) > 26_000
            # One order at a time would change one level, or the few that a trade empties.
            await client.until(lambda each: len(each.get("changes", ())) > 20)


async def test_it_says_where_it_listens_serves_and_stops_on_sigterm(
    server: asyncio.subprocess.Process,
) -> None:
    address = await listening(server)
    async with FeedClient(str(address["ws_url"])) as client:
        await client.subscribe(["ticker"], ["BTC-USD"])
        await client.until_type("ticker")
    async with httpx.AsyncClient(base_url=str(address["rest_url"])) as rest:
        assert (await rest.get("/_control")).json()["seed"] == 11
        assert (await rest.get("/healthz")).status_code == 200
    server.terminate()
    async with asyncio.timeout(30):
        assert await server.wait() == 0


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--faults", '{"dorp": {}}'], "dorp"),
        (["--deep", "BTC-USD"], "PRODUCT=LEVELS"),
        (["--rate", "0"], "--rate"),
        (["--products", " , "], "at least one product"),
        (["--products", "BTC-USD,btcusd"], "'btcusd' is not a product"),
        (["--api-secret", "no base64!"], "is not base64"),
        (["--rest-burst", "0"], "--rest-burst"),
        (["--capture", "/no/such/file"], "does not exist"),
    ],
)
def test_a_wrong_option_is_explained(arguments: list[str], problem: str) -> None:
    result = CliRunner().invoke(simulate, arguments)
    assert result.exit_code == 2
    assert problem in result.output


def test_options_come_from_the_environment_too() -> None:
    result = CliRunner().invoke(simulate, [], env={"SIM_RATE": "fast"})
    assert result.exit_code == 2
    assert "fast" in result.output


async def test_a_port_that_is_taken_ends_it_with_a_reason() -> None:
    async with SimulatedExchange(products=("BTC-USD",), paced=False) as running:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tools.simulator", "--port", str(running.port)),
            *("--log-format", "json", "--products", "BTC-USD"),
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(30):
            _, log = await process.communicate()
    assert process.returncode == 1
    events = {each["event"]: each for each in map(msgspec.json.decode, log.splitlines())}
    assert "in use" in events["exchange_failed"]["reason"]


async def test_a_market_that_fails_is_noticed_and_raised() -> None:
    exchange = SimulatedExchange(products=("BTC-USD",), rate=500)
    with pytest.RaisesGroup(pytest.RaisesExc(ZeroDivisionError), flatten_subgroups=True):
        async with exchange, asyncio.timeout(30):
            exchange.hub.dispatch = lambda _: 1 // 0  # type: ignore[assignment,method-assign]  # breaks the pump
            await asyncio.Event().wait()
