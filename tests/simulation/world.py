"""One simulated world: everything in it follows from its seed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterator, MutableMapping
from contextlib import contextmanager
from random import Random
from typing import Any, NoReturn

import structlog

from services.common.testing.process_state import logging_as_it_was
from tests.simulation.clock import VirtualClock
from tests.simulation.environment import answering
from tests.simulation.loop import SimulatedLoop
from tests.simulation.network import Network

# 2026-01-01T00:00:00Z, in nanoseconds since 1970.
_BEGAN_AT_NS = 1_767_225_600_000_000_000

# Tasks that were killed. As garbage they would run their `finally` after all, whenever the
# collector comes; they are kept until the interpreter ends.
_DEAD: list[asyncio.Task[Any]] = []


class World:
    """The clock, the network and the loop of one run."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.clock = VirtualClock(_BEGAN_AT_NS)
        self.network = Network(Random(self.random.getrandbits(64)))
        self.loop = SimulatedLoop(self.clock, self.network)
        # What nobody caught, as asyncio tells it, and what was logged as an error.
        self.unhandled: list[dict[str, Any]] = []
        self.errors: list[MutableMapping[str, Any]] = []
        self.loop.set_exception_handler(lambda _loop, told: self.unhandled.append(told))

    def run[T](self, script: Coroutine[Any, Any, T], within_s: float = 3600.0) -> T:
        """Run the simulation's own script to its end; processes that still run are left there.

        Raises:
            EverybodyWaits: the script waits for what can never happen.
            TimeoutError: it took more than `within_s` virtual seconds.
        """

        async def bounded() -> T:
            async with asyncio.timeout(within_s):
                return await script

        return self.loop.run_until_complete(bounded())

    def end(self) -> None:
        """Kill what still runs."""
        for process in self.loop.processes[:]:
            self.loop.kill(process)
        _DEAD.extend(self.loop.dead)
        self.loop.close()


@contextmanager
def world(seed: int) -> Iterator[World]:
    """A world to run in; afterwards all of its processes are gone."""
    made = World(seed)
    chance = Random(made.random.getrandbits(64))
    with logging_as_it_was(), answering(made.clock, chance):
        _keep_errors(made.errors)
        asyncio.set_event_loop(made.loop)
        try:
            yield made
        finally:
            made.end()
            asyncio.set_event_loop(None)


def _keep_errors(errors: list[MutableMapping[str, Any]]) -> None:
    """Keep what is logged as an error; the rest would be most of a run's cost."""

    def keep(_logger: Any, _level: str, event: MutableMapping[str, Any]) -> NoReturn:
        errors.append(event)
        raise structlog.DropEvent

    structlog.configure(
        processors=[keep], wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR)
    )
