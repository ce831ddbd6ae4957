"""A TCP line between a client and a gateway that breaks at random points."""

from __future__ import annotations

import asyncio
import random
from typing import Self


class BreakingProxy:
    """Listens on `port` of 127.0.0.1 and passes bytes on to `target`.

    Each connection is cut, without a goodbye, after a random number of the gateway's bytes, until
    `cuts` reaches `limit`; later ones are left alone.

    Args:
        mean_bytes: of what a connection carries before it is cut.
        seed: of the random points.
    """

    def __init__(self, target: int, *, limit: int, mean_bytes: int, seed: int = 1) -> None:
        self.cuts = 0
        self.connections = 0
        self.port = 0
        self._target = target
        self._limit = limit
        self._mean = mean_bytes
        self._random = random.Random(seed)
        self._server: asyncio.Server
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def done(self) -> bool:
        return self.cuts >= self._limit

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_exc_info: object) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            await self._connected(reader, writer)
        finally:
            self._writers.discard(writer)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            onward = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        left = None if self.done else int(self._random.expovariate(1 / self._mean))
        try:
            async with asyncio.TaskGroup() as group:
                up = group.create_task(_pass(reader, onward[1], None))
                await _pass(onward[0], writer, left)
                if left is not None and not self.done:
                    self.cuts += 1
                up.cancel()
        finally:
            writer.transport.abort()
            onward[1].transport.abort()


async def _pass(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, left: int | None
) -> None:
    """Copy until the end of `reader`, or until `left` bytes were copied."""
    try:
        while left is None or left > 0:
            data = await reader.read(65536 if left is None else min(65536, left))
            if not data:
                return
            writer.write(data)
            await writer.drain()
            if left is not None:
                left -= len(data)
    except OSError:
        return
