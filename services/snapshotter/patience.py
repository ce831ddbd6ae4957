"""Asking a store or the broker until it answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from services.common.resilience import Backoff
from services.snapshotter.pacing import RETRY_S


async def patiently[T, E: Exception](
    call: Callable[[], Awaitable[T]], unavailable: type[E], tell: Callable[[E], None]
) -> T:
    """Call until it does not raise `unavailable`, with growing pauses; cancel to give up.

    `tell` is told of each failure.
    """
    backoff = Backoff(*RETRY_S)
    while True:
        try:
            return await call()
        except unavailable as error:
            tell(error)
            await asyncio.sleep(backoff.next_delay())
