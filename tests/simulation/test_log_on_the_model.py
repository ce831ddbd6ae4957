"""The adapter and the model meet in the simulated world."""

from __future__ import annotations

import asyncio
import time

import pytest

from services.common.errors import BrokerUnavailable
from services.common.stream import Broker, LogSpec, Position, Record
from services.common.stream.nats.broker import NatsBroker
from services.common.testing.conformance import BTC, LOG, read_all, record, seqs, take
from tests.simulation.nats_model.server import ModelServer
from tests.simulation.test_world import done
from tests.simulation.world import World, world

PORT = 4222


def serve(it: World, model: ModelServer) -> None:
    async def run() -> None:
        model.port = PORT
        await model.start("0.0.0.0")
        await asyncio.get_running_loop().create_future()

    it.loop.start(it.network.machine("nats"), run)


async def ensure(broker: Broker) -> None:
    while True:
        try:
            return await broker.ensure([LogSpec(LOG, 3600)])
        except BrokerUnavailable:
            await asyncio.sleep(1)


def published_while_the_server_dies(seed: int) -> tuple[list[int], float]:
    """What a log has of 2,000 records after its server died three times meanwhile, and when."""
    with world(seed) as it:
        model = ModelServer()

        async def publish() -> list[int]:
            async with NatsBroker([f"nats://nats:{PORT}"]) as broker:
                await ensure(broker)
                publisher = await broker.publisher(max_records=256)
                for n in range(1, 2001):
                    await publisher.send(record(n))
                    await asyncio.sleep(0.005)
                await publisher.flush()
                group = await broker.group(LOG, "readers")
                assert seqs(await take(group, 2000)) == list(range(1, 2001))
                return seqs(await read_all(broker))

        async def script() -> tuple[list[int], float]:
            serve(it, model)
            machine = it.network.machine("nats")

            def die() -> None:
                (process,) = [one for one in it.loop.processes if one.machine is machine]
                it.loop.kill(process)
                model.kill()
                it.loop.call_later(2, serve, it, model)

            for second in (2, 6, 9):
                it.loop.call_later(second, die)
            return await done(it, "publisher", publish), time.monotonic()

        return it.run(script())


def test_nothing_is_lost_or_doubled_when_the_server_dies() -> None:
    stored, seconds = published_while_the_server_dies(1)
    assert stored == list(range(1, 2001))
    assert 10 < seconds < 60


def test_a_seed_repeats_to_the_nanosecond() -> None:
    assert published_while_the_server_dies(2) == published_while_the_server_dies(2)


def test_a_server_that_is_not_there_is_waited_for_without_waiting() -> None:
    with world(3) as it:
        model = ModelServer()

        async def publish() -> float:
            async with NatsBroker([f"nats://nats:{PORT}"]) as broker:
                await ensure(broker)
                publisher = await broker.publisher()
                ticket = await publisher.send(Record(BTC, b"x", Position(1, 1)))
                await publisher.durable(ticket)
                return time.monotonic()

        async def script() -> float:
            it.network.machine("nats")
            it.loop.call_later(600, serve, it, model)
            return float(await done(it, "publisher", publish))

        assert it.run(script()) == pytest.approx(600, abs=60)
