"""Ports for servers and services, chosen before they listen."""

from __future__ import annotations

import random
import socket

# Below the range from which Linux takes the ports of outgoing connections (32768 and up), so that
# no connection can sit on a chosen port before its server listens, nor while that is away.
FIRST, LAST = 20_000, 32_000


class PortWalk:
    """Gives ports one after the other, and begins anew behind the last.

    Two processes that choose at random meet now and then, as each has a port most of the time that
    is chosen and not listened on yet. Two that walk meet only where they pass each other.
    """

    def __init__(self, start: int) -> None:
        self._next = start

    def free(self, host: str) -> int:
        """The next port nothing listens on at this moment."""
        while True:
            port = self._next
            self._next = port + 1 if port < LAST else FIRST
            if _is_free(host, port):
                return port


_walk = PortWalk(random.SystemRandom().randint(FIRST, LAST))


def free_port(host: str = "127.0.0.1") -> int:
    """A port nothing listens on, which this process was not given for the last 12,000 ports."""
    return _walk.free(host)


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
