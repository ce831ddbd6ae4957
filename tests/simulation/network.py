"""The network between the machines: names, delays, and what is wrong with a way at the moment."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from random import Random

from tests.simulation.machine import Machine

_SECOND_NS = 1_000_000_000


@dataclass(slots=True)
class Way:
    """What a segment meets from one machine to another, from now on.

    `delay_ns` and up to `jitter_ns` more is how long it is under way; `bytes_per_s` is how much
    fits through (0: everything at once). While `blocked` nothing arrives, and what was sent arrives
    once it no longer is, as TCP sends again.
    """

    delay_ns: int = 100_000
    jitter_ns: int = 50_000
    bytes_per_s: int = 0
    blocked: bool = False


class Network:
    """Machines by name and address, and the ways between them."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self._by_name: dict[str, Machine] = {}
        self._by_address: dict[str, Machine] = {}
        self._ways: dict[tuple[str, str], Way] = {}

    def machine(self, name: str) -> Machine:
        """The machine of that name, made where there is none."""
        if name not in self._by_name:
            number = len(self._by_name) + 1
            address = str(ipaddress.IPv4Address("10.0.0.0") + number)
            made = Machine(name, address)
            self._by_name[name] = self._by_address[address] = made
        return self._by_name[name]

    def find(self, host: str) -> Machine | None:
        """The machine that a name or an address means."""
        return self._by_name.get(host) or self._by_address.get(host)

    def way(self, source: Machine, destination: Machine) -> Way:
        """The way from one machine to another, which may be changed at any time."""
        return self._ways.setdefault((source.name, destination.name), Way())

    def sending_ns(self, way: Way, size: int) -> int:
        """For how long a segment of `size` bytes keeps the ones behind it from leaving."""
        return size * _SECOND_NS // way.bytes_per_s if way.bytes_per_s else 0

    def under_way_ns(self, way: Way) -> int:
        """For how long a segment that leaves now is under way."""
        return way.delay_ns + (self.random.randrange(way.jitter_ns) if way.jitter_ns else 0)
