"""A publisher on a log with replicas while leaders change, servers die and acks are late."""

from __future__ import annotations

import asyncio
import time
from random import Random

import pytest

from services.common.errors import BrokerUnavailable
from services.common.stream import GroupSubscription, Message
from services.common.stream.nats.broker import NatsBroker
from services.common.testing.conformance import BTC, ETH, LOG, read_all, record, seqs
from services.common.testing.waiting import eventually
from tests.simulation.machine import Process
from tests.simulation.nats_model.cluster import ClusterServer, ModelCluster
from tests.simulation.test_log_on_the_model import PORT, ensure
from tests.simulation.test_world import done
from tests.simulation.world import World, world

RECORDS = 600
# How long what is sent between the publisher and the servers may be under way, in nanoseconds.
DELAYS_NS = (100_000, 1_000_000, 5_000_000, 20_000_000)
BOTH = (BTC, ETH)


class Servers:
    """A cluster of models, each on a machine of its own."""

    def __init__(self, it: World) -> None:
        self.it = it
        self.cluster = ModelCluster(Random(it.random.getrandbits(64)))
        self.processes: dict[ClusterServer, Process] = {}
        for server in self.cluster.servers:
            self.start(server)

    @property
    def urls(self) -> list[str]:
        return [f"nats://{one.jetstream.server_name}:{PORT}" for one in self.cluster.servers]

    def start(self, server: ClusterServer) -> None:
        async def run() -> None:
            server.port = PORT
            await server.start("0.0.0.0")
            await asyncio.get_running_loop().create_future()

        machine = self.it.network.machine(server.jetstream.server_name)
        self.processes[server] = self.it.loop.start(machine, run)

    def die(self, server: ClusterServer, for_s: float, *, unplugged: bool = False) -> None:
        if self.processes[server].alive and sum(one.up for one in self.cluster.servers) == 3:
            self.it.loop.kill(self.processes[server], unplugged=unplugged)
            server.kill()
            self.it.loop.call_later(for_s, self.start, server)

    def happen(self, chance: Random) -> None:
        """One thing that goes wrong."""
        loop, cluster = self.it.loop, self.cluster
        server = chance.choice(cluster.servers)
        match chance.randrange(8):
            case 0:
                self.die(server, chance.uniform(0.5, 8.0), unplugged=chance.random() < 0.3)
            case 1:
                for one in cluster.servers:
                    one.answers_late_s = chance.choice((0.05, 1.0, 6.0))
                    loop.call_later(chance.uniform(0.1, 3.0), setattr, one, "answers_late_s", 0.0)
            case 2:
                for one in cluster.servers:
                    one.full = True
                    loop.call_later(chance.uniform(0.1, 3.0), setattr, one, "full", False)
            case 3:
                for one in cluster.servers:
                    one.answers_lost = 0.2
                    loop.call_later(chance.uniform(0.1, 2.0), setattr, one, "answers_lost", 0.0)
            case 4:
                server.lame_duck()
                loop.call_later(chance.uniform(0.5, 2.0), self.die, server, 3.0)
            case _:
                cluster.step_down_all()


def stored_while_leaders_change(seed: int) -> dict[str, object]:
    """What the log has in the end, what a group was given, and what the publisher counted."""
    with world(seed) as it:

        async def publish() -> dict[str, object]:
            chance = Random(it.random.getrandbits(64))
            async with NatsBroker(servers.urls, replicas=3) as broker:
                await ensure(broker)
                group = await broker.group(LOG, "readers")
                publisher = await broker.publisher(max_records=256)
                async with asyncio.TaskGroup() as tasks:
                    reading = tasks.create_task(_given(group))
                    for n in range(1, RECORDS + 1):
                        for subject in BOTH:
                            await publisher.send(record(n, subject))
                        await asyncio.sleep(chance.uniform(0.0, 0.03))
                    await publisher.flush()
                found: dict[str, object] = {"lost": publisher.stats().lost}
                found |= {f"given {subject}": seen for subject, seen in reading.result().items()}
                for subject in BOTH:
                    found[subject] = seqs(await _all(broker, subject), subject)
                return found

        async def script() -> dict[str, object]:
            chance = Random(it.random.getrandbits(64))
            near = it.network.machine("publisher")
            for server in servers.cluster.servers:
                far = it.network.machine(server.jetstream.server_name)
                for way in (it.network.way(near, far), it.network.way(far, near)):
                    way.delay_ns = chance.choice(DELAYS_NS)
            for at in sorted(chance.uniform(2.0, 10.0) for _ in range(12)):
                it.loop.call_later(at, servers.happen, chance)
            return dict(await done(it, "publisher", publish))

        servers = Servers(it)
        return it.run(script())


async def _given(group: GroupSubscription) -> dict[str, list[int]]:
    """What a member of a group is given of each subject, each once, until it has the last."""
    given: dict[str, dict[int, None]] = {subject: {} for subject in BOTH}
    while not all(RECORDS in seen for seen in given.values()):
        batch = await group.next_batch()
        for message in batch:
            given[message.subject][message.position.seq] = None
        await group.ack(batch)
    return {subject: list(seen) for subject, seen in given.items()}


async def _all(broker: NatsBroker, subject: str) -> list[Message]:
    while True:
        try:
            return await read_all(broker, subject)
        except BrokerUnavailable:
            await asyncio.sleep(1)


WHOLE = list(range(1, RECORDS + 1))
EXPECTED = {"lost": 0} | dict.fromkeys(BOTH, WHOLE) | {f"given {s}": WHOLE for s in BOTH}


@pytest.mark.parametrize("seed", range(6))
def test_each_record_is_there_once_and_in_order(seed: int) -> None:
    assert stored_while_leaders_change(seed) == EXPECTED


def told_of_what_two_machines_lost(seed: int) -> tuple[int, list[int]]:
    """Two of three lose their power and what they had not synced; the third was behind them.

    Its clients' connections stand, and what they publish next is stored without what was lost.
    Answers how many records the publisher says are lost, and what the log has.
    """
    with world(seed) as it:

        async def publish() -> tuple[int, list[int]]:
            behind = servers.cluster.servers[0]
            async with NatsBroker(servers.urls[:1], replicas=3) as broker:
                await ensure(broker)
                publisher = await broker.publisher()
                for n in range(1, 101):
                    await publisher.send(record(n))
                await publisher.flush()
                await asyncio.sleep(2)
                behind.log_late_s = 60.0
                for n in range(101, 201):
                    await publisher.send(record(n))
                await publisher.flush()
                lost_power.set()
                await back.wait()
                for n in range(201, 301):
                    await publisher.send(record(n))
                await publisher.flush()
                return publisher.stats().lost, seqs(await _all(broker, BTC))

        async def script() -> tuple[int, list[int]]:
            result = asyncio.ensure_future(done(it, "publisher", publish))
            await lost_power.wait()
            _behind, *others = servers.cluster.servers
            for server in others:
                it.loop.kill(servers.processes[server], unplugged=True)
                server.kill()
                server.lose_tail(time.time_ns() - 1_000_000_000)
            for server in others:
                servers.start(server)
            group = servers.cluster.groups["MARKET_RAW"]
            await eventually(lambda: group.leader is not None)
            back.set()
            return tuple(await result)

        servers = Servers(it)
        lost_power, back = asyncio.Event(), asyncio.Event()
        return it.run(script())


def test_what_is_lost_beneath_newer_records_is_told() -> None:
    lost, stored = told_of_what_two_machines_lost(1)
    assert stored == [*range(1, 101), *range(201, 301)]
    assert lost == 100


def test_a_page_from_a_replica_that_lags_ends_where_the_log_does() -> None:
    with world(1) as it:

        async def read() -> list[tuple[list[int], bool]]:
            behind = servers.cluster.servers[0]
            async with NatsBroker(servers.urls[:1], replicas=3) as broker:
                await ensure(broker)
                await eventually(lambda: servers.cluster.groups["MARKET_RAW"].leader is not None)
                while (group := servers.cluster.groups["MARKET_RAW"]).leader is behind:
                    servers.cluster.step_down_all()
                    await eventually(lambda: group.leader is not None)
                publisher = await broker.publisher()
                behind.log_late_s = 60.0
                pages = []
                for n in (1, 2):
                    await publisher.send(record(n))
                    await publisher.flush()
                    page = await broker.read(BTC, limit=1)
                    rest = await broker.read(BTC, page.cursor)
                    pages += [(seqs(one.messages), one.at_head) for one in (page, rest)]
                return pages

        servers = Servers(it)
        assert it.run(done(it, "reader", read)) == [
            ([1], True),
            ([], True),
            ([1], False),
            ([2], True),
        ]


@pytest.mark.parametrize("seed", range(4))
def test_a_stream_made_anew_has_nothing_of_the_one_before(seed: int) -> None:
    """Servers lose everything while it is still open who leads the old stream next."""
    with world(seed) as it:

        async def publish() -> list[int]:
            async with NatsBroker(servers.urls, replicas=3) as broker:
                await ensure(broker)
                await broker.publish(*(record(n) for n in range(1, 101)))
            for server in servers.cluster.servers:
                it.loop.kill(servers.processes[server])
                server.kill()
            servers.cluster.wipe()
            for server in servers.cluster.servers:
                servers.start(server)
            async with NatsBroker(servers.urls, replicas=3) as broker:
                await ensure(broker)
                # Longer than it takes to have a new leader.
                await asyncio.sleep(10)
            streams = [each.jetstream.streams for each in servers.cluster.servers]
            return [stream.last for each in streams for stream in each.values()]

        async def script() -> list[int]:
            return list(await done(it, "publisher", publish))

        servers = Servers(it)
        found = it.run(script())
        assert len(found) >= 3
        assert not any(found)
