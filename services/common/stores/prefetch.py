"""Loading what is needed next while what came before is still being worked on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any


async def ahead[T, R](
    items: AsyncIterator[T], load: Callable[[T], Awaitable[R]], depth: int
) -> AsyncGenerator[R]:
    """`load(item)` for each item, in order; up to `depth` loads run ahead of the consumer.

    Close it (`contextlib.aclosing`) when it is not read to its end: that ends the loads. What
    `items` or a load raises is raised where its result would have come.
    """
    room = asyncio.Semaphore(depth)
    started: asyncio.Queue[asyncio.Task[R] | None] = asyncio.Queue()

    async def start() -> None:
        try:
            async for item in items:
                await room.acquire()
                started.put_nowait(asyncio.ensure_future(load(item)))
        finally:
            started.put_nowait(None)

    # A TaskGroup cannot span a `yield`, so this generator is the parent of its tasks itself.
    starting = asyncio.create_task(start())
    try:
        while (loading := await started.get()) is not None:
            result = await loading
            room.release()
            yield result
        await starting
    finally:
        left: list[asyncio.Task[Any]] = [starting]
        starting.cancel()
        while not started.empty():
            if (task := started.get_nowait()) is not None:
                task.cancel()
                left.append(task)
        await asyncio.wait(left)
