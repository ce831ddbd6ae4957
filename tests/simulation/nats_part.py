"""The platform's nats-server: one, or three as a cluster, and what goes wrong with those."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any

from tests.simulation.nats_model.cluster import ModelCluster
from tests.simulation.nats_model.server import ModelServer

if TYPE_CHECKING:
    from tests.simulation.platform import Platform

_PORT = 4222
_NS = 1_000_000_000
# As in the charts.
_SYNC_NS = 10 * _NS
# How many faults of its own a cluster has.
CLUSTER_FAULTS = 2


@dataclass(frozen=True)
class LeaderChange:
    """The leaders of all streams and consumers step down, `times` times, a moment apart."""

    at_s: float
    times: int
    for_s: float


@dataclass(frozen=True)
class FullStore:
    """The servers have no room for records, for `for_s`."""

    at_s: float
    for_s: float


@dataclass(frozen=True)
class LateAcks:
    """The servers tell `by_s` later what they stored, and of some (`lost`) they say nothing."""

    at_s: float
    for_s: float
    by_s: float
    lost: float


@dataclass(frozen=True)
class ServerDown:
    """A server dies and comes back after `for_s`.

    Before that it may tell its clients for `grace_s` that it will (a lame duck); or it loses, with
    its power, what it had stored in the last `tail_s`.
    """

    at_s: float
    for_s: float
    grace_s: float
    tail_s: float


ClusterFault = LeaderChange | FullStore | LateAcks | ServerDown


def cluster_fault(chance: Random, at_s: float, longest_s: float) -> ClusterFault:
    """One of them."""
    for_s = chance.uniform(0.05, longest_s)
    makers: tuple[Callable[[], ClusterFault], ...] = (
        lambda: LeaderChange(at_s, chance.randint(1, 5), for_s),
        lambda: FullStore(at_s, for_s),
        lambda: LateAcks(at_s, for_s, chance.choice((0.05, 1.0, 6.0)), chance.choice((0.0, 0.2))),
        lambda: ServerDown(at_s, 0.8 * for_s, 0.2 * for_s, 0.0),
        lambda: ServerDown(at_s, for_s, 0.0, chance.choice((0.0, 1.0, 10.0))),
    )
    return chance.choice(makers)()


class NatsPart:
    """Its servers by their parts, "nats" or "nats-1" to "nats-3", with what their disks hold."""

    def __init__(self, chance: Random, servers: int = 1) -> None:
        self.cluster = ModelCluster(chance) if servers > 1 else None
        made = [ModelServer("nats")] if self.cluster is None else self.cluster.servers
        self.servers: dict[str, ModelServer] = {one.jetstream.server_name: one for one in made}
        self.mains: dict[str, Callable[[], Coroutine[Any, Any, Any]]] = {
            name: partial(self._main, server) for name, server in self.servers.items()
        }

    @property
    def disk(self) -> ModelServer:
        """What the logs hold, as one server has it."""
        return next(iter(self.servers.values()))

    @property
    def urls(self) -> tuple[str, ...]:
        return tuple(f"nats://{name}:{_PORT}" for name in self.servers)

    @staticmethod
    async def _main(server: ModelServer) -> None:
        server.port = _PORT
        await server.start("0.0.0.0")
        await asyncio.get_running_loop().create_future()

    def killed(self, part: str, now_ns: int, *, unplugged: bool) -> None:
        """A server is gone; one that is alone has lost what it had not synced, if its machine is.

        Of a cluster it is said what is lost (`ServerDown`).
        """
        server = self.servers[part]
        server.kill()
        if unplugged and self.cluster is None:
            # Any time up to `sync_interval`, as the moment has it.
            server.lose_tail(now_ns - now_ns % _SYNC_NS)

    def part_of(self, name: str, at_s: float) -> str:
        """The part that a plan means by a name: of a cluster one server, another each time."""
        if name != "nats" or self.cluster is None:
            return name
        return f"nats-{1 + int(at_s * 1000) % len(self.servers)}"

    def begin(self, fault: ClusterFault, platform: Platform) -> bool:
        """Begin a fault, which ends by itself; whether it met anything."""
        loop, servers = platform.world.loop, self.servers
        assert self.cluster is not None
        match fault:
            case LeaderChange():
                for number in range(fault.times):
                    at_s = fault.for_s * number / fault.times
                    loop.call_later(at_s, self.cluster.step_down_all)
            case FullStore():
                for server in servers.values():
                    server.full = True
                    loop.call_later(fault.for_s, setattr, server, "full", False)
            case LateAcks():
                for server in servers.values():
                    server.answers_late_s, server.answers_lost = fault.by_s, fault.lost
                    loop.call_later(fault.for_s, setattr, server, "answers_late_s", 0.0)
                    loop.call_later(fault.for_s, setattr, server, "answers_lost", 0.0)
            case ServerDown():
                return self._server_down(fault, platform)
        return True

    def _server_down(self, fault: ServerDown, platform: Platform) -> bool:
        part = self.part_of("nats", fault.at_s)
        if fault.grace_s and platform.running(part):
            self.servers[part].lame_duck()
            down = partial(platform.down, part, fault.for_s)
            platform.world.loop.call_later(fault.grace_s, down)
            return True
        # Records are lost for good only where two machines lose their power.
        alone = all(platform.running(other) for other in self.servers)
        happened = platform.down(part, fault.for_s, unplugged=fault.tail_s > 0)
        if happened and alone:
            since_ns = platform.world.clock.true_time_ns() - round(fault.tail_s * _NS)
            self.servers[part].lose_tail(since_ns)
        return happened
