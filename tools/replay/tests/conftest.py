"""Stores, and a broker in memory that outlives each service."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from services.common.stream.memory.broker import MemoryBroker, MemoryServer
from services.common.testing.proxy import Proxy
from services.snapshotter.testing import Platform
from tools.embedded import AwsServer


@pytest.fixture
async def platform(
    aws_server: AwsServer, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Platform]:
    for name, value in aws_server.environment.items():
        monkeypatch.setenv(name, value)
    server = MemoryServer()
    proxy = Proxy(aws_server.port)
    await proxy.start()
    async with Platform(aws_server.url, proxy, lambda: MemoryBroker(server)) as opened:
        yield opened
    await proxy.aclose()
