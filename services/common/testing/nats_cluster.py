"""NATS with JetStream for tests: three servers as one cluster on loopback, and a full one."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Self

from services.common.errors import BrokerUnavailable
from services.common.stream import Broker, Position, Record
from services.common.stream.nats.broker import NatsBroker
from services.common.subjects import INVALID_SUBJECT
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


# What one small record takes, at most; then nothing fits any more.
_SIZES = (100_000, 10_000, 1_000, 1)


async def fill(broker: Broker) -> None:
    """Put records nobody reads into the `invalid` log until the server takes no more."""
    for seq, size in enumerate(_SIZES, 1):
        publisher = await broker.publisher(max_records=1)
        # Refused, it is not tried again: the publisher would put it in when there is room.
        while publisher.stats().trouble is None:
            position = Position(seq, publisher.stats().sent + 1)
            publisher.offer(Record(INVALID_SUBJECT, b"x" * size, position))
            await asyncio.sleep(0)
        await publisher.aclose()


async def make_room(broker: Broker) -> None:
    """Take them away again."""
    assert isinstance(broker, NatsBroker)
    await broker.api("STREAM.PURGE.MARKET_INVALID")
