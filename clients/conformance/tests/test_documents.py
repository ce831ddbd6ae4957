"""docs/clients.md, followed as it is written by somebody who has nothing else."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from market_data_conformance.documents import examples, run_example
from market_data_conformance.node import WITHOUT_NODE, find_node

from services.common.stream.memory.broker import MemoryBroker
from services.gateway.testing import Bench, bench, under_load

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "clients.md"
NODE = find_node()
BASH = ("bash", "-eu")


@contextlib.asynccontextmanager
async def busy_gateway() -> AsyncIterator[Bench]:
    async with bench(MemoryBroker()) as gateway:
        markets = [
            gateway.market(product, channel)
            for product in ("BTC-USD", "ETH-USD")
            for channel in ("ticker", "trades", "book")
        ]
        for market in markets:
            await market.publish(market.reset({"bids": [["1", "1"]], "asks": [["500", "1"]]}))
        async with under_load(*markets, every_s=0.02):
            yield gateway


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python package, installed from its source the way pip does it."""
    source = tmp_path_factory.mktemp("source") / "python"
    shutil.copytree(ROOT / "clients" / "python", source)
    target = tmp_path_factory.mktemp("installed")
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--target", str(target))
    command = (sys.executable, "-m", "pip", "install", "--quiet", *options, str(source))
    subprocess.run(command, check=True, capture_output=True)
    return target


@pytest.mark.parametrize("code", examples(PAGE, "python"), ids=range(2))
async def test_the_python_way(code: str, installed: Path) -> None:
    assert (installed / "market_data_fanout_client" / "py.typed").exists()
    async with busy_gateway() as gateway:
        status, output = await run_example(
            code,
            (sys.executable, "-W", "error"),
            ".py",
            gateway.port,
            environment={"PYTHONPATH": str(installed)},
        )
    assert status == 0, output
    assert "price=" in output


@pytest.mark.skipif(NODE is None, reason=WITHOUT_NODE)
@pytest.mark.parametrize("code", examples(PAGE, "js"), ids=range(2))
async def test_the_javascript_way(code: str) -> None:
    assert NODE is not None
    async with busy_gateway() as gateway:
        status, output = await run_example(
            code,
            NODE,
            ".mjs",
            gateway.port,
            packages={"market-data-fanout-client": ROOT / "clients" / "js"},
        )
    assert status == 0, output
    assert "price:" in output


@pytest.fixture
def path_with_wscat(request: pytest.FixtureRequest) -> str:
    """PATH; the machine's own wscat comes first."""
    if shutil.which("wscat") is None:
        folder: Path = request.getfixturevalue("npm_packages")
        return f"{os.environ['PATH']}:{folder / '.bin'}"
    return os.environ["PATH"]


async def test_the_wscat_way(path_with_wscat: str) -> None:
    (code,) = examples(PAGE, "wscat")
    environment = {"PATH": path_with_wscat}
    async with busy_gateway() as gateway:
        status, output = await run_example(code, BASH, ".sh", gateway.port, environment=environment)
    assert status == 0, output
    assert '"type":"incr"' in output


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
async def test_the_curl_way() -> None:
    (code,) = examples(PAGE, "curl")
    async with busy_gateway() as gateway:
        status, output = await run_example(code, BASH, ".sh", gateway.port)
    assert status == 0, output
    assert '"type":"tick"' in output
    assert "BTC-USD" in output
