"""Loading what is needed next while what came before is still being worked on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable


async def prefetch[T, R](
    items: AsyncGenerator[T], load: Callable[[T], Awaitable[R]], depth: int
) -> AsyncGenerator[R]:
    """`load(item)` for each item, in order; up to `depth` loads run before the consumer asks.

    Close it (`contextlib.aclosing`) when it is not read to its end: that ends the loads, and
    closes `items`. What `items` or a load raises is raised where its result would have come.
    """
    room = asyncio.Semaphore(depth)
    # What comes next, in order; None behind the last. Errors travel in the futures: a task that
    # failed would end its group, and so cancel whoever consumes this, wherever that is by then.
    coming: asyncio.Queue[asyncio.Future[R] | None] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    ended: BaseException | None = None

    async def fetch(item: T, loaded: asyncio.Future[R]) -> None:
        try:
            loaded.set_result(await load(item))
        except Exception as error:  # noqa: BLE001 - raised where the result is waited for
            loaded.set_exception(error)

    async def start_all(group: asyncio.TaskGroup) -> None:
        try:
            async with contextlib.aclosing(items):
                async for item in items:
                    await room.acquire()
                    loaded: asyncio.Future[R] = loop.create_future()
                    coming.put_nowait(loaded)
                    tasks.append(group.create_task(fetch(item, loaded)))
        except Exception as error:  # noqa: BLE001 - raised behind the last result
            failed: asyncio.Future[R] = loop.create_future()
            failed.set_exception(error)
            coming.put_nowait(failed)
        coming.put_nowait(None)

    tasks: list[asyncio.Task[None]] = []
    async with asyncio.TaskGroup() as group:
        tasks.append(group.create_task(start_all(group)))
        try:
            while (loaded := await coming.get()) is not None:
                result = await loaded
                room.release()
                yield result
        except (Exception, GeneratorExit) as error:  # noqa: BLE001 - raised again, by itself
            # Raised in here it would come out as a group's.
            ended = error
            for task in tasks:
                task.cancel()
    while not coming.empty():
        left = coming.get_nowait()
        if left is not None and left.done():
            # Nobody asks for it any more, and nobody is to be told so.
            left.exception()
    if ended is not None:
        raise ended
