"""The broker contract on a real Valkey."""

from __future__ import annotations

import shutil

import pytest

from tools.embedded import ValkeyServer

pytest.register_assert_rewrite("services.common.testing.conformance")

from services.common.stream import Broker  # noqa: E402 - after the rewrite is registered
from services.common.stream.redis import RedisBroker  # noqa: E402
from services.common.testing.conformance import Backend, BrokerConformance  # noqa: E402


class _Redis(Backend):
    def __init__(self, server: ValkeyServer) -> None:
        self.server = server

    def broker(self) -> Broker:
        return RedisBroker(self.server.url)

    async def kill(self) -> None:
        await self.server.kill()

    async def start(self) -> None:
        await self.server.start()

    async def wipe(self) -> None:
        shutil.rmtree(self.server.data_dir / "appendonlydir")

    async def expire(self, broker: Broker) -> None:
        assert isinstance(broker, RedisBroker)
        await broker.trim()


class TestRedisBroker(BrokerConformance):
    @pytest.fixture
    def backend(self, valkey_server: ValkeyServer) -> Backend:
        return _Redis(valkey_server)
