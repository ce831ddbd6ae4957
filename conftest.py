"""Fixtures that any test may use: each test gets its own real servers on free ports."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path

import pytest
import uvloop
from hypothesis import HealthCheck, Phase, settings
from market_data_conformance.node import Unavailable, node_modules

from services.common.testing.process_state import left_as_found
from tools.embedded import AwsServer, NatsServer, ValkeyServer
from tools.embedded.nats import nats_version
from tools.embedded.valkey import valkey_version

# What its assertions compare is to be told, as in tests.
pytest.register_assert_rewrite("services.common.testing.conformance")

ROOT = Path(__file__).resolve().parent
# How long an example takes, or its making, is the machine's business: no test fails by it. And no
# run fails by luck: each has the same examples, until a test is changed; the night has others.
settings.register_profile(
    "unhurried",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "random", parent=settings.get_profile("unhurried"), derandomize=False, print_blob=True
)
# For mutation testing: one failing example finds a mutant, the smallest one is not wanted.
# Every mutant is run by the same process, with other instances of the tests' classes.
settings.register_profile(
    "mutants",
    parent=settings.get_profile("unhurried"),
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.differing_executors],
)
# For the run at night: many more interleavings of the tests that ask for as many as there are.
settings.register_profile(
    "nightly",
    parent=settings.get_profile("unhurried"),
    derandomize=False,
    max_examples=10_000,
    print_blob=True,
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "unhurried"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, help="shuffle the order of test files by this number")


def pytest_report_header(config: pytest.Config) -> list[str]:
    seed = config.getoption("--seed")
    order = [] if seed is None else [f"order of files: seed {seed} (make test SEED={seed})"]
    return [f"broker servers: {nats_version()}; {valkey_version()}", *order]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Nobody may lean on what the file before left behind; the tests of a file stay together."""
    if (seed := config.getoption("--seed")) is None:
        return
    files = sorted({item.path for item in items})
    random.Random(seed).shuffle(files)
    place = {file: number for number, file in enumerate(files)}
    items.sort(key=lambda item: place[item.path])


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop that the services run on; asyncio's own would prove another program."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(autouse=True)
def process_is_left_as_found() -> Iterator[None]:
    """The next file in this process, whichever it is, finds what this one found."""
    with left_as_found():
        yield


@pytest.fixture(scope="session")
def captures() -> Path:
    """The folder of recorded venue traffic; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("MARKET_CAPTURES", ROOT.parent / "shared" / "captures"))
    if not folder.is_dir():
        pytest.skip(f"no captures at {folder} (set MARKET_CAPTURES)")
    return folder


@pytest.fixture(scope="session")
def npm_packages() -> Path:
    """The node_modules that tests of clients need; they are skipped where it cannot be had."""
    try:
        return node_modules()
    except Unavailable as why:
        pytest.skip(str(why))


@pytest.fixture
async def nats_server() -> AsyncIterator[NatsServer]:
    async with NatsServer() as server:
        yield server


@pytest.fixture
async def valkey_server() -> AsyncIterator[ValkeyServer]:
    async with ValkeyServer() as server:
        yield server


@pytest.fixture
async def aws_server() -> AsyncIterator[AwsServer]:
    async with AwsServer() as server:
        yield server
