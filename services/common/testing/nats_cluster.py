"""Three nats-servers with JetStream as one cluster on loopback."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Self

from services.common.errors import BrokerUnavailable
from services.common.stream.nats.broker import NatsBroker
from services.common.testing.conformance import answers, until
from tools.embedded import NatsServer, free_port


class NatsCluster:
    """Use as a context; it is ready for replicated streams when that is entered."""

    def __init__(self, size: int = 3) -> None:
        self._stack = AsyncExitStack()
        routes = [free_port() for _ in range(size)]
        joined = ", ".join(f'"nats://127.0.0.1:{route}"' for route in routes)
        self.servers = [
            NatsServer(
                extra_config=f'cluster {{ name: "test", listen: "127.0.0.1:{route}", '
                f"routes: [{joined}] }}"
            )
            for route in routes
        ]

    async def __aenter__(self) -> Self:
        for server in self.servers:
            await self._stack.enter_async_context(server)
        async with self.broker() as broker:
            await until(lambda: answers(broker))
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._stack.aclose()

    def broker(self, *, beside: NatsServer | None = None) -> NatsBroker:
        """A broker on these servers, not open yet; `beside` is one it must not connect to."""
        urls = [server.url for server in self.servers if server is not beside]
        return NatsBroker(urls, replicas=len(self.servers))

    async def leader(self, broker: NatsBroker, stream: str) -> NatsServer:
        """The server that leads a stream at this moment.

        Raises:
            BrokerUnavailable: none does, or nobody can say.
        """
        info = await broker.api(f"STREAM.INFO.{stream}")
        name = info["cluster"].get("leader", "")
        for server in self.servers:
            if name == f"mdf-{server.port}" and server.is_running():
                return server
        raise BrokerUnavailable("nats cluster", f"stream {stream} has no leader")
