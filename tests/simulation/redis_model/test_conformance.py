"""The model is held to what the real server is held to: the same suite, over real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from services.common.testing.conformance import Backend
from services.common.testing.conformance.suite import BrokerConformance
from services.common.testing.redis_backend import RedisBackend
from tests.simulation.redis_model.server import ModelServer


class _Model(RedisBackend):
    server: ModelServer

    async def kill(self) -> None:
        self.server.kill()

    async def start(self) -> None:
        await self.server.start()

    async def wipe(self) -> None:
        self.server.engine.wipe()


class TestModel(BrokerConformance):
    @pytest.fixture
    async def backend(self) -> AsyncIterator[Backend]:
        server = ModelServer()
        await server.start()
        try:
            yield _Model(server)
        finally:
            server.kill()
