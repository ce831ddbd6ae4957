"""Redis in the place of the broker: its process, its faults, and what its logs held."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any

from services.common.subjects import is_pulse, key_of
from tests.simulation.redis_model.server import ModelServer
from tests.simulation.redis_model.stream import Stream

if TYPE_CHECKING:
    from tests.simulation.platform import Platform
    from tests.simulation.stored import Lines

NAME = "redis"
_PORT = 6379
_TICKS = "market:market.tick."
# For how long a server that was started reads its data.
_LOADING_S = 0.5
# How many of a plan's faults are Redis' own, and how far a replica is behind at most.
_OWN_FAULTS = 0.35
_BEHIND_S = 3.0


@dataclass(frozen=True)
class Oom:
    """A Redis has no memory for anything new for `for_s`."""

    at_s: float
    for_s: float


@dataclass(frozen=True)
class ReadOnly:
    """A Redis is a replica for `for_s`, and takes no writes."""

    at_s: float
    for_s: float


@dataclass(frozen=True)
class Failover:
    """A Redis dies, and after `for_s` a replica takes its place that was `behind_s` behind it."""

    at_s: float
    for_s: float
    behind_s: float


RedisFault = Oom | ReadOnly | Failover


def at_redis[F](fault: F, chance: Random, longest_s: float) -> F | RedisFault:
    """What a plan's fault is where the broker is a Redis: the same at it, or one of its own."""
    told: Any = fault
    if chance.random() < _OWN_FAULTS:
        at_s, for_s = told.at_s, chance.uniform(0.05, longest_s)
        makers = (
            lambda: Oom(at_s, for_s),
            lambda: ReadOnly(at_s, for_s),
            lambda: Failover(at_s, for_s, chance.uniform(0.0, _BEHIND_S)),
        )
        return chance.choice(makers)()
    if getattr(told, "part", None) == "nats":
        told = replace(told, part=NAME)
    if "nats" in getattr(told, "ends", ()):
        told = replace(told, ends=tuple(NAME if end == "nats" else end for end in told.ends))
    renamed: F = told
    return renamed


class RedisPart:
    """The server, which keeps its data when its process is killed."""

    def __init__(self) -> None:
        self.model = ModelServer()

    @property
    def url(self) -> str:
        return f"redis://{NAME}:{_PORT}/0"

    async def main(self) -> None:
        self.model.port = _PORT
        await self.model.start("0.0.0.0", loading_s=_LOADING_S)
        await asyncio.get_running_loop().create_future()

    def killed(self, *, unplugged: bool) -> None:
        self.model.kill()
        if unplugged:
            self.model.lose_unsynced()

    def begin(self, fault: RedisFault, platform: Platform) -> bool:
        """Let it happen, and be over when it says; whether it met anything."""
        loop, model = platform.world.loop, self.model
        match fault:
            case Oom():
                model.be_full(full=True)
                loop.call_later(fault.for_s, partial(model.be_full, full=False))
            case ReadOnly():
                model.become(read_only=True)
                loop.call_later(fault.for_s, partial(model.become, read_only=False))
            case Failover():
                if not platform.running(NAME):
                    return False
                platform.kill(NAME)
                model.lose_last(fault.behind_s)
                loop.call_later(fault.for_s, platform.start, NAME)
        return True


class RedisLogs:
    """Every tick record that a log ever held, also after it was trimmed, but not what a server lost
    and nobody wrote again.
    """

    def __init__(self, part: RedisPart) -> None:
        self._engine = part.model.engine
        # By a record's key and its epoch, seq and sub.
        self._seen: dict[str, dict[tuple[int, int, int], bytes]] = {}

    def look(self) -> None:
        """Take in what is new; often enough that nothing is dropped between two looks."""
        for subject, epoch, stream in self._streams():
            seen = self._seen.setdefault(subject, {})
            lost = [place for place in seen if place[0] == epoch and place[1:] > stream.last]
            for place in lost:
                del seen[place]
            for identity, fields in stream.entries.items():
                seen[(epoch, *identity)] = fields[1]

    def ticks(self) -> Lines:
        """Each stream's records, in order."""
        self.look()
        return {
            key_of(subject): [seen[place] for place in sorted(seen)]
            for subject, seen in self._seen.items()
            if seen
        }

    def _streams(self) -> Iterator[tuple[str, int, Stream]]:
        for key, value in self._engine.database.values.items():
            name, _, epoch = key.decode().rpartition("@")
            if isinstance(value, Stream) and name.startswith(_TICKS):
                subject = name.removeprefix("market:")
                if not is_pulse(subject):
                    yield subject, int(epoch), value
