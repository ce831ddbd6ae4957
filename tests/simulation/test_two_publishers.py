"""Two publishers write the same records of a log, as two members of a group do."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from services.common.stream import LogSpec
from services.common.stream.nats.broker import NatsBroker
from services.common.testing.conformance import BTC, ETH, LOG, SOL, read_all, record, seqs
from tests.simulation.nats_model.server import ModelServer
from tests.simulation.test_log_on_the_model import ensure, serve
from tests.simulation.test_world import done
from tests.simulation.world import world

LAST = 60
URL = "nats://nats:4222"


def stored_by_two(seed: int) -> dict[str, list[int]]:
    """What a log has when two wrote the same to it, each in order and at its own pace."""
    with world(seed) as it:

        async def publish() -> None:
            async with NatsBroker([URL]) as broker:
                await ensure(broker)
                publisher = await broker.publisher()
                chance = Random(it.random.getrandbits(64))
                left = {subject: iter(range(1, LAST + 1)) for subject in (BTC, ETH, SOL)}
                while left:
                    subject = chance.choice(list(left))
                    if (number := next(left[subject], None)) is None:
                        del left[subject]
                        continue
                    await publisher.send(record(number, subject))
                    if chance.random() < 0.1:
                        await asyncio.sleep(chance.uniform(0.0, 0.002))
                await publisher.flush()

        async def read() -> dict[str, list[int]]:
            async with NatsBroker([URL]) as broker:
                await broker.ensure([LogSpec(LOG, 3600)])
                return {s: seqs(await read_all(broker, s), s) for s in (BTC, ETH, SOL)}

        async def script() -> dict[str, list[int]]:
            serve(it, ModelServer())
            async with asyncio.TaskGroup() as both:
                for name in ("one", "two"):
                    both.create_task(done(it, name, publish))
            return dict(await done(it, "reader", read))

        return it.run(script())


@pytest.mark.parametrize("seed", range(40))
def test_each_record_is_there_once_and_in_order(seed: int) -> None:
    whole = list(range(1, LAST + 1))
    assert stored_by_two(seed) == {BTC: whole, ETH: whole, SOL: whole}
