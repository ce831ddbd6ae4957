"""What the interpreter tells programs of time, chance and sockets, taken from the simulation.

Libraries and services ask `time`, `random`, `os.urandom` and `socket` for these. They get answers
that the seed decides; none of them is changed itself.
"""

from __future__ import annotations

import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from tests.simulation.clock import VirtualClock
from tests.simulation.machine import running_process


class _ListenerSocket:
    """A socket that is only good for listening: `create_server` takes its address from it."""

    def __init__(self, family: int = socket.AF_INET, *_kind: Any) -> None:
        self.family = family
        self.type = socket.SOCK_STREAM
        self._name = ("", 0)

    def setsockopt(self, *_option: Any) -> None:
        """Options change nothing here."""

    def setblocking(self, _blocking: bool) -> None:
        """Nothing here blocks."""

    def bind(self, name: tuple[str, int]) -> None:
        machine = running_process().machine
        self._name = (machine.address, name[1] or machine.free_port())

    def listen(self, _backlog: int) -> None:
        """`create_server` does."""

    def getsockname(self) -> tuple[str, int]:
        return self._name

    def close(self) -> None:
        """Nothing is open."""


def _seeded_by(chance: random.Random) -> Callable[..., None]:
    original = random.Random.seed

    def seed(self: random.Random, a: Any = None, version: int = 2) -> None:
        original(self, chance.getrandbits(64) if a is None else a, version)

    return seed


@contextmanager
def answering(clock: VirtualClock, chance: random.Random) -> Iterator[None]:
    """Answer from `clock` and `chance` while the block runs, for the whole interpreter."""
    before = random.getstate()
    random.seed(chance.getrandbits(64))
    with (
        patch.multiple(
            time,
            time=clock.time,
            time_ns=clock.time_ns,
            monotonic=clock.monotonic,
            monotonic_ns=clock.monotonic_ns,
            perf_counter=clock.monotonic,
            perf_counter_ns=clock.monotonic_ns,
        ),
        patch.object(os, "urandom", chance.randbytes),
        # A generator of somebody's own, which the interpreter would seed by itself.
        patch.object(random.Random, "seed", _seeded_by(chance)),
        # What `random.SystemRandom`, and so `secrets`, has taken from `os` already.
        patch.object(random, "_urandom", chance.randbytes),
        patch.object(socket, "socket", _ListenerSocket),
        # Threads see true time, and nobody could say when they run; those of services only watch.
        patch.object(threading.Thread, "start", lambda _thread: None),
    ):
        try:
            yield
        finally:
            random.setstate(before)
