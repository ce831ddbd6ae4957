"""The broker contract on a real nats-server."""

from __future__ import annotations

import shutil

import pytest

from tools.embedded import NatsServer
from tools.embedded.nats import MAX_PAYLOAD

pytest.register_assert_rewrite("services.common.testing.conformance")

from services.common.stream import Broker  # noqa: E402 - after the rewrite is registered
from services.common.stream.nats import NatsBroker  # noqa: E402
from services.common.testing.conformance import Backend, BrokerConformance  # noqa: E402


class _Nats(Backend):
    # The headers count as well.
    too_large = MAX_PAYLOAD - 10

    def __init__(self, server: NatsServer) -> None:
        self.server = server

    def broker(self) -> Broker:
        return NatsBroker([self.server.url])

    async def kill(self) -> None:
        await self.server.kill()

    async def start(self) -> None:
        await self.server.start()

    async def wipe(self) -> None:
        shutil.rmtree(self.server.data_dir / "jetstream")

    async def expire(self, broker: Broker) -> None:
        """The server does it by itself."""


class TestNatsBroker(BrokerConformance):
    @pytest.fixture
    def backend(self, nats_server: NatsServer) -> Backend:
        return _Nats(nats_server)
