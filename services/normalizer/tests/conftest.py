"""Each backend's broker, for tests that have to hold on all of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from services.common.settings import CommonSettings
from services.common.stream import Broker
from services.common.stream.factory import open_broker
from services.common.stream.memory.broker import MemoryBroker, MemoryServer
from tools.embedded import NatsServer, ValkeyServer


@pytest.fixture(params=["memory", "nats", "redis"])
async def connect(request: pytest.FixtureRequest) -> AsyncIterator[Callable[[], Broker]]:
    """Makes clients of one and the same server."""
    if request.param == "memory":
        memory = MemoryServer()
        yield lambda: MemoryBroker(memory)
    elif request.param == "nats":
        async with NatsServer() as nats:
            settings = CommonSettings(broker_kind="nats", nats_urls=(nats.url,))
            yield lambda: open_broker(settings)
    else:
        async with ValkeyServer() as valkey:
            in_redis = CommonSettings(broker_kind="redis", redis_url=valkey.url)
            yield lambda: open_broker(in_redis)
