"""A TCP proxy between a client and a server of a test, which can be cut and mended."""

from __future__ import annotations

import asyncio


class Proxy:
    """Forwards to a local port; while it is cut it refuses, or (`blackhole`) swallows."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._up = asyncio.Event()
        self._up.set()
        self._blackhole = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.port = 0

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def cut(self, *, blackhole: bool = False) -> None:
        self._blackhole = blackhole
        self._up.clear()
        if not blackhole:
            for writer in self._writers:
                writer.transport.abort()

    def mend(self) -> None:
        self._up.set()
        # Whoever waited for an answer of a swallowed request would wait for ever.
        for writer in self._writers:
            if self._blackhole:
                writer.transport.abort()

    async def aclose(self) -> None:
        if self._server is not None:
            self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            if not self._up.is_set() and not self._blackhole:
                return
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
            self._writers.add(far_writer)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._copy(reader, far_writer))
                    group.create_task(self._copy(far_reader, writer))
            finally:
                self._writers.discard(far_writer)
                far_writer.transport.abort()
        except* (OSError, asyncio.CancelledError):
            pass
        finally:
            self._writers.discard(writer)
            self._tasks.discard(task)
            writer.transport.abort()

    async def _copy(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65_536):
            await self._up.wait()
            sink.write(data)
            await sink.drain()
        if not sink.is_closing() and sink.can_write_eof():
            sink.write_eof()
