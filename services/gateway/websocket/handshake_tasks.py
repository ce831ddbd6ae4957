"""The owner of the ASGI calls that decide on handshakes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import structlog

log = structlog.get_logger(__name__)


class HandshakeTasks:
    """Starts such calls and learns how each of them ended.

    No TaskGroup can be their parent: they begin in a callback of the transport. What has not ended
    is in the server's own set of tasks; when it stops, it waits for those and cancels them in the
    end.

    Args:
        loop: that runs them.
        tasks: the server's.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, tasks: set[asyncio.Task[None]]) -> None:
        self._loop = loop
        self._tasks = tasks

    def run(self, call: Coroutine[Any, Any, None], on_failure: Callable[[], None]) -> None:
        """Run one. `on_failure` is called if it ends by an error, which has then been logged.

        Most endpoints decide at once: such a call has ended when this returns, and was never
        scheduled.
        """
        task = asyncio.Task(call, loop=self._loop, eager_start=True)
        if task.done():
            _ended(on_failure, task)
        else:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            task.add_done_callback(partial(_ended, on_failure))


def _ended(on_failure: Callable[[], None], task: asyncio.Task[None]) -> None:
    # One that is cancelled ends with the server, which closes all connections.
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("handshake_failed", exc_info=error)
        on_failure()
