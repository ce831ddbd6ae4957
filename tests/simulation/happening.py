"""Does to the platform what a plan says, and counts what met something."""

from __future__ import annotations

from collections import Counter
from functools import partial

from tests.simulation.nats_part import FullStore, LateAcks, LeaderChange, ServerDown
from tests.simulation.plan import Fault, FeedFault, Kill, Partition, Slow, StoreFault, WrongClock
from tests.simulation.platform import Platform
from tests.simulation.redis_part import Failover, Oom, ReadOnly
from tests.simulation.world import World

_NS = 1_000_000_000


class Happening:
    """Begins faults, and ends each by a timer of its own."""

    def __init__(self, it: World, platform: Platform) -> None:
        self._it = it
        self._platform = platform
        self._happened: Counter[str] = Counter()

    def told(self) -> Counter[str]:
        """How many faults of each kind there were, and how many requests stores failed at."""
        stores: Counter[str] = Counter()
        for name, remote in self._platform.stores.remotes.items():
            stores.update({f"{name} {kind}": count for kind, count in remote.met.items() if count})
        return self._happened + stores

    def begin(self, fault: Fault) -> None:
        loop, network, platform = self._it.loop, self._it.network, self._platform
        part_of = platform.part_of
        happened = True
        match fault:
            case Kill():
                part = part_of(fault.part, fault.at_s)
                happened = platform.down(part, fault.for_s, unplugged=fault.unplugged)
            case Partition():
                one, other = (network.machine(part_of(end, fault.at_s)) for end in fault.ends)
                ways = [network.way(one, other)]
                ways += [] if fault.one_way else [network.way(other, one)]
                for way in ways:
                    way.blocked = True
                    loop.call_later(fault.for_s, setattr, way, "blocked", False)
            case Slow():
                one, other = (network.machine(part_of(end, fault.at_s)) for end in fault.ends)
                for way in (network.way(one, other), network.way(other, one)):
                    before = way.jitter_ns
                    way.jitter_ns = max(before, round(fault.by_s * _NS))
                    loop.call_later(fault.for_s, setattr, way, "jitter_ns", before)
            case FeedFault():
                if platform.exchange is not None:
                    platform.exchange.control(**{fault.kind: {"count": fault.count}})
            case WrongClock():
                network.machine(part_of(fault.part, fault.at_s)).clock_ahead_ns += round(
                    fault.by_s * _NS
                )
            case Oom() | ReadOnly() | Failover():
                happened = platform.redis.begin(fault, platform)
            case LeaderChange() | FullStore() | LateAcks() | ServerDown():
                happened = platform.nats.begin(fault, platform)
            case StoreFault():
                wrong = platform.stores.remotes[fault.store].wrong
                wrong[fault.kind] += 1
                loop.call_later(fault.for_s, partial(wrong.subtract, [fault.kind]))
        self._happened[type(fault).__name__] += happened
