"""Fixtures: stores behind a proxy, and a memory broker that outlives each snapshotter."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from services.common.settings import CommonSettings
from services.common.stream.factory import open_broker
from services.common.stream.memory.broker import MemoryBroker, MemoryServer
from services.common.testing.proxy import Proxy
from services.snapshotter.testing import Platform
from tools.embedded import AwsServer


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
async def proxy(aws_server: AwsServer) -> AsyncIterator[Proxy]:
    made = Proxy(aws_server.port)
    await made.start()
    yield made
    await made.aclose()


@pytest.fixture
async def platform(aws_server: AwsServer, proxy: Proxy) -> AsyncIterator[Platform]:
    server = MemoryServer()
    async with Platform(aws_server.url, proxy, lambda: MemoryBroker(server)) as opened:
        yield opened


@pytest.fixture(params=["nats", "redis"])
def broker_settings(request: pytest.FixtureRequest) -> CommonSettings:
    """Of a real broker server that runs for this test."""
    kind = request.param
    server = request.getfixturevalue("nats_server" if kind == "nats" else "valkey_server")
    address = {"nats_urls": server.url} if kind == "nats" else {"redis_url": server.url}
    return CommonSettings.model_validate({"broker_kind": kind, **address})


@pytest.fixture
async def broker_platform(
    broker_settings: CommonSettings, aws_server: AwsServer, proxy: Proxy
) -> AsyncIterator[Platform]:
    async with Platform(aws_server.url, proxy, lambda: open_broker(broker_settings)) as opened:
        yield opened
