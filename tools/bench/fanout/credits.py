"""How the sink asks a server for ticks: each byte on a pipe is one flush."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable


def on_credits(pipe: int, flush: Callable[[], None], ended: Callable[[], None]) -> None:
    """Call `flush` for each byte that comes, on the running loop; `ended` when the sink is gone."""
    loop = asyncio.get_running_loop()
    os.set_blocking(pipe, False)

    def readable() -> None:
        granted = os.read(pipe, 64)
        if not granted:
            loop.remove_reader(pipe)
            ended()
        for _ in granted:
            flush()

    loop.add_reader(pipe, readable)
