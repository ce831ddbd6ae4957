"""The one way in which tests wait for something that no event tells of."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

# A busy machine may need most of it, a working one never all.
WAIT_S = 60.0


async def eventually(
    condition: Callable[[], bool | Awaitable[bool]],
    what: str = "what was waited for",
    seconds: float = WAIT_S,
    *,
    every: float = 0.01,
    despite: type[Exception] | tuple[type[Exception], ...] = (),
) -> None:
    """Return once `condition` holds; that it raises one of `despite` counts as no.

    Raises:
        AssertionError: it did not hold in time.
    """
    try:
        async with asyncio.timeout(seconds):
            while not await _holds(condition, despite):  # noqa: ASYNC110 - no event tells of it
                await asyncio.sleep(every)
    except TimeoutError as error:
        raise AssertionError(f"{what} did not come about within {seconds:g} s") from error


async def _holds(
    condition: Callable[[], bool | Awaitable[bool]],
    despite: type[Exception] | tuple[type[Exception], ...],
) -> bool:
    try:
        answer = condition()
        return answer if isinstance(answer, bool) else bool(await answer)
    except despite:
        return False
