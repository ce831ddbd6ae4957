"""The adapter for Redis and the model meet in the simulated world, where servers lose what they
had acknowledged.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from random import Random

import pytest

from services.common.errors import BrokerUnavailable
from services.common.stream import Broker, LogSpec, Message
from services.common.stream.redis.broker import RedisBroker
from services.common.testing.conformance import BTC, ETH, LOG, read_all, record, seqs
from tests.simulation.redis_model.server import ModelServer
from tests.simulation.test_world import done
from tests.simulation.world import World, world

PORT = 6379
LAST = 300
SUBJECTS = (BTC, ETH)


class _Scene:
    """A server that is hurt, a publisher, two members of a group and a live reader."""

    def __init__(self, it: World) -> None:
        self.it = it
        self.model = ModelServer()
        self.model.port = PORT
        self.chance = Random(it.random.getrandbits(64))
        self.taken: dict[str, list[int]] = {subject: [] for subject in SUBJECTS}
        self.followed: dict[str, list[int]] = {subject: [] for subject in SUBJECTS}
        self.stored: dict[str, list[int]] = {}
        # By the group and by the live reader.
        self.all_seen = asyncio.Event()

    # -- the server

    def serve(self) -> None:
        async def run() -> None:
            await self.model.start("0.0.0.0", loading_s=self.chance.uniform(0.0, 1.0))
            await asyncio.get_running_loop().create_future()

        self.it.loop.start(self.it.network.machine("redis"), run)

    def die(self, *, unplugged: bool = False) -> bool:
        machine = self.it.network.machine("redis")
        found = [one for one in self.it.loop.processes if one.machine is machine]
        for process in found:
            self.it.loop.kill(process, unplugged=unplugged)
            self.model.kill()
            self.it.loop.call_later(self.chance.uniform(0.05, 3.0), self.serve)
        return bool(found)

    def hurt(self) -> None:
        """Do one of the things that happen to servers."""
        loop, model = self.it.loop, self.model
        for_s = self.chance.uniform(0.1, 4.0)
        match self.chance.randrange(5):
            case 0:
                self.die()
            case 1:
                if self.die(unplugged=True):
                    model.lose_unsynced()
            case 2:
                if self.die():
                    model.lose_last(self.chance.uniform(0.0, 3.0))
            case 3:
                model.be_full(full=True)
                loop.call_later(for_s, lambda: model.be_full(full=False))
            case 4:
                model.become(read_only=True)
                loop.call_later(for_s, lambda: model.become(read_only=False))

    # -- the others

    async def publish(self) -> None:
        async with RedisBroker(f"redis://redis:{PORT}/0") as broker:
            await ensure(broker)
            publisher = await broker.publisher(max_records=256)
            for n in range(1, LAST + 1):
                for subject in SUBJECTS:
                    await publisher.send(record(n, subject))
                await asyncio.sleep(0.04)
            await publisher.flush()
            assert publisher.stats().lost == 0
            for subject in SUBJECTS:
                # The last of what happens to the server may come now.
                found = await opened(partial(read_all, broker, subject))
                self.stored[subject] = seqs(found, subject)
            await self.all_seen.wait()

    async def take(self) -> None:
        async with RedisBroker(f"redis://redis:{PORT}/0") as broker:
            await ensure(broker)
            member = await opened(lambda: broker.group(LOG, "readers", max_pending=64))
            while True:
                batch = await member.next_batch()
                self._saw(self.taken, batch)
                await asyncio.sleep(self.chance.uniform(0.0, 0.1))
                await member.ack(batch)

    async def follow(self) -> None:
        async with RedisBroker(f"redis://redis:{PORT}/0") as broker:
            await ensure(broker)
            live = await opened(lambda: broker.live(LOG))
            while True:
                self._saw(self.followed, (await live.next_batch()).messages)

    def _saw(self, by: dict[str, list[int]], messages: Sequence[Message]) -> None:
        for message in messages:
            by[message.subject].append(message.position.seq)
        told = (*self.taken.values(), *self.followed.values())
        if all(LAST in seen for seen in told):
            self.all_seen.set()


async def ensure(broker: Broker) -> None:
    await opened(lambda: broker.ensure([LogSpec(LOG, 3600)]))


async def opened[T](call: Callable[[], Awaitable[T]]) -> T:
    while True:
        try:
            return await call()
        except BrokerUnavailable:
            await asyncio.sleep(0.5)


def lived_through(seed: int) -> tuple[_Scene, float]:
    """What came of 300 records of two subjects while the server was hurt three times."""
    with world(seed) as it:
        scene = _Scene(it)

        async def script() -> float:
            scene.serve()
            it.loop.start(it.network.machine("follower"), scene.follow)
            it.loop.start(it.network.machine("member"), scene.take)
            await asyncio.sleep(2.0)
            for _ in range(3):
                it.loop.call_later(scene.chance.uniform(0.5, 12.0), scene.hurt)
            await done(it, "publisher", scene.publish)
            return time.monotonic()

        seconds = it.run(script())
        assert not it.unhandled
        return scene, seconds


@pytest.mark.parametrize("seed", range(10))
def test_what_was_acknowledged_is_there_in_order_whatever_the_server_lost(seed: int) -> None:
    scene, _seconds = lived_through(seed)
    whole = list(range(1, LAST + 1))
    assert scene.stored == dict.fromkeys(SUBJECTS, whole)
    # The live reader keeps its own places: it sees all of it once.
    assert scene.followed == scene.stored
    for taken in scene.taken.values():
        newest = 0
        for seq in taken:
            # A repetition may come, a record that follows a hole never.
            assert seq <= newest + 1
            newest = max(newest, seq)
        assert newest == LAST


def test_a_seed_repeats_to_the_nanosecond() -> None:
    one, other = (lived_through(3) for _ in range(2))
    assert (one[0].taken, one[0].followed, one[1]) == (other[0].taken, other[0].followed, other[1])
