"""TCP lines between a client and a gateway: one breaks at random points, one is slow or dead."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
from abc import ABC, abstractmethod
from typing import Self


class _Proxy(ABC):
    """Listens on `port` of 127.0.0.1, and passes on to `target` in some way."""

    def __init__(self, target: int) -> None:
        self.port = 0
        self._target = target
        self._server: asyncio.Server
        self._ends: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_exc_info: object) -> None:
        self._server.close()
        for end in list(self._ends):
            end.transport.abort()
        await self._server.wait_closed()

    @abstractmethod
    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, from its beginning to its end."""


class BreakingProxy(_Proxy):
    """Listens on `port` of 127.0.0.1 and passes bytes on to `target`.

    Each connection is cut, without a goodbye and anywhere in a frame, after a random time or a
    random number of the target's bytes; `cuts` counts them.

    Args:
        mean_s: how long a connection lasts on average; without it time cuts none.
        mean_bytes: how much of what `target` says comes through on average. A client gets on only
            where this is not much smaller than a frame.
        seed: of the random times and sizes.
    """

    def __init__(
        self,
        target: int,
        *,
        mean_s: float | None = None,
        mean_bytes: float | None = None,
        seed: int = 1,
    ) -> None:
        super().__init__(target)
        self.cuts = 0
        self._mean_s = mean_s
        self._mean_bytes = mean_bytes
        self._random = random.Random(seed)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lasts, most = self._draw(self._mean_s), self._draw(self._mean_bytes)
        ends = {writer}
        self._ends.add(writer)
        try:
            async with asyncio.timeout(lasts):
                answers, onward = await asyncio.open_connection("127.0.0.1", self._target)
                ends.add(onward)
                async with asyncio.TaskGroup() as group:
                    up = group.create_task(_pass(reader, onward))
                    cut = await _pass(answers, writer, None if most is None else round(most))
                    up.cancel()
            self.cuts += cut
        except TimeoutError:
            self.cuts += 1
        except OSError:
            # The target is not there: this connection ends as its own would.
            pass
        finally:
            for end in ends:
                end.transport.abort()
            self._ends.discard(writer)

    def _draw(self, mean: float | None) -> float | None:
        return None if mean is None else self._random.expovariate(1 / mean)


async def _pass(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, most: int | None = None
) -> bool:
    """Copy until the end of `reader`, or until `most` bytes are copied: then True."""
    left = sys.maxsize if most is None else most
    with contextlib.suppress(OSError):
        while data := await reader.read(4096):
            writer.write(data[:left])
            await writer.drain()
            left -= len(data)
            if left <= 0:
                return True
    return False


class SlowProxy(_Proxy):
    """Listens on `port` of 127.0.0.1 and passes bytes on to `target`, as late as it is told.

    Attributes:
        delay_s: how long the target's bytes are under way from now on; in order in any case.
        dead: nothing comes through, either way, and no connection ends by it.
    """

    def __init__(self, target: int) -> None:
        super().__init__(target)
        self.delay_s = 0.0
        self.dead = False

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = {writer}
        self._ends.add(writer)
        try:
            answers, onward = await asyncio.open_connection("127.0.0.1", self._target)
            ends.add(onward)
            self._ends.add(onward)
            late: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
            async with asyncio.TaskGroup() as group:
                said = group.create_task(self._listen(reader, onward))
                giving = group.create_task(self._give(late, writer))
                while data := await answers.read(4096):
                    late.put_nowait((asyncio.get_running_loop().time() + self.delay_s, data))
                await late.join()
                giving.cancel()
                said.cancel()
        except* OSError:
            pass
        finally:
            for end in ends:
                end.transport.abort()
            self._ends -= ends

    async def _listen(self, reader: asyncio.StreamReader, onward: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(4096):
                if not self.dead and not onward.is_closing():
                    onward.write(data)
        onward.transport.abort()

    async def _give(
        self, late: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter
    ) -> None:
        while True:
            due, data = await late.get()
            await asyncio.sleep(due - asyncio.get_running_loop().time())
            if not self.dead and not writer.is_closing():
                writer.write(data)
            late.task_done()
