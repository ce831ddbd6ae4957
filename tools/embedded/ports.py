"""Ports for servers and services, chosen before they listen."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import socket
import tempfile
from collections import deque
from pathlib import Path

# Below the range from which Linux takes the ports of outgoing connections (32768 and up), so that
# no connection can sit on a chosen port before its server listens, nor while that is away.
FIRST, LAST = 20_000, 32_000
# How many of the newest ports a process keeps for itself: more than it ever has in use.
_KEPT = 500


class Reservations:
    """Ports that this process has chosen and perhaps not listened on yet, told to all others.

    Each is a locked byte of one file, which the kernel unlocks when the process ends, however it
    ends. One object for a process and file: such locks belong to the process.
    """

    def __init__(self, file: Path, kept: int = _KEPT) -> None:
        self._file = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
        self._ports: deque[int] = deque()
        self._kept = kept

    def take(self, port: int) -> bool:
        """Whether nobody else has it; then it is ours until `kept` others were taken."""
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
        except OSError:
            return False
        with contextlib.suppress(ValueError):
            self._ports.remove(port)
        self._ports.append(port)
        if len(self._ports) > self._kept:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, self._ports.popleft())
        return True


class PortWalk:
    """Gives ports one after the other, and begins anew behind the last.

    Two processes that choose at random would meet now and then, as each has a port most of the
    time that is chosen and not listened on yet: by their reservations neither takes the other's.
    """

    def __init__(self, start: int, reservations: Reservations) -> None:
        self._next = start
        self._reservations = reservations

    def free(self, host: str) -> int:
        """The next port that nothing listens on and no other process was given."""
        while True:
            port = self._next
            self._next = port + 1 if port < LAST else FIRST
            if is_free(host, port) and self._reservations.take(port):
                return port


_reservations = Reservations(Path(tempfile.gettempdir()) / f"market-data-ports-{os.getuid()}")
_walk = PortWalk(random.SystemRandom().randint(FIRST, LAST), _reservations)


def free_port(host: str = "127.0.0.1") -> int:
    """A port nothing listens on, and that no process of this user is given as long as we keep it.

    It is kept until this process was given 500 others, or ends.
    """
    return _walk.free(host)


def is_free(host: str, port: int) -> bool:
    """Whether nothing listens on this port."""
    with socket.socket() as probe:
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
