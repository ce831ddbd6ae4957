"""Ports for a stack's processes, chosen before they start."""

from __future__ import annotations

import random
import socket

# Below the range from which Linux takes the ports of outgoing connections (32768 and up), so that
# no connection made between choosing and listening can sit on a chosen port.
_FIRST, _LAST = 20_000, 32_000


class PortPicker:
    """Each `pick` is a port nothing listens on now and that this picker never gave before."""

    def __init__(self) -> None:
        self._given: set[int] = set()
        self._random = random.SystemRandom()

    def pick(self) -> int:
        while True:
            port = self._random.randrange(_FIRST, _LAST)
            if port not in self._given and _is_free(port):
                self._given.add(port)
                return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
