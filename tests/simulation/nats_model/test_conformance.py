"""The model is held to what the real server is held to: the same suite, over real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from random import Random

import pytest

from services.common.stream import Broker
from services.common.stream.nats.broker import NatsBroker
from services.common.testing.conformance import Backend
from services.common.testing.conformance.suite import BrokerConformance
from services.common.testing.nats_backend import NatsBackend
from tests.simulation.nats_model.cluster import ModelCluster
from tests.simulation.nats_model.server import ModelServer


class _Model(NatsBackend):
    too_large = ModelServer.max_payload - 10
    server: ModelServer

    async def kill(self) -> None:
        self.server.kill()

    async def start(self) -> None:
        await self.server.start()

    async def wipe(self) -> None:
        self.server.jetstream.streams.clear()
        self.server.jetstream.consumers.clear()


class TestModel(BrokerConformance):
    @pytest.fixture
    async def backend(self) -> AsyncIterator[Backend]:
        server = ModelServer()
        await server.start()
        try:
            yield _Model(server)
        finally:
            server.kill()


class _Cluster(NatsBackend):
    """All three die and come back; clients choose among them."""

    too_large = ModelServer.max_payload - 10

    def __init__(self, cluster: ModelCluster) -> None:
        super().__init__(cluster.servers[0])
        self._cluster = cluster

    def broker(self) -> Broker:
        return NatsBroker([server.url for server in self._cluster.servers], replicas=3)

    async def kill(self) -> None:
        for server in self._cluster.servers:
            server.kill()

    async def start(self) -> None:
        for server in self._cluster.servers:
            await server.start()

    async def wipe(self) -> None:
        self._cluster.wipe()


class TestClusterOfModels(BrokerConformance):
    @pytest.fixture
    async def backend(self) -> AsyncIterator[Backend]:
        cluster = ModelCluster(Random(1), election_s=(0.05, 0.2))
        for server in cluster.servers:
            await server.start()
        try:
            yield _Cluster(cluster)
        finally:
            for server in cluster.servers:
                server.kill()
