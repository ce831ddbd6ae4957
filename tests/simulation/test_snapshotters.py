"""Two snapshotters, a log and the stores, and nothing else: so many more faults can be tried."""

from __future__ import annotations

import asyncio
from functools import partial
from random import Random

import pytest

from services.common.stream.nats.broker import NatsBroker
from services.common.stream.specs import log_specs
from services.common.subjects import StreamKey
from services.common.testing.tick_records import TickStream
from services.snapshotter.settings import SnapshotterSettings
from tests.simulation.happening import Happening
from tests.simulation.plan import (
    LONGEST_S,
    Fault,
    Kill,
    Partition,
    Plan,
    Slow,
    StoreFault,
    faults_of,
)
from tests.simulation.platform import SHARDS, Platform
from tests.simulation.stored import Archive, Logs, archive_differs, rows_differ
from tests.simulation.test_world import done
from tests.simulation.world import world

_PARTS = ("nats", "snapshotter-1", "snapshotter-2")
_STORES = ("dynamodb", "s3")
_FAULTS_S = 40.0
_SETTLE_S = 150.0
_POLL_S = 5.0


def concerns(fault: Fault) -> bool:
    """Whether anybody who takes part would notice."""
    match fault:
        case StoreFault():
            return True
        case Kill():
            return fault.part in _PARTS
        case Partition() | Slow():
            return all(end in (*_PARTS, *_STORES) for end in fault.ends)
    return False


def wrong_after(seed: int, count: int = 12) -> list[str]:
    """What differs in the end."""
    with world(seed) as it:
        chance = Random(it.random.getrandbits(64))
        faults = faults_of(chance, count, 2.0, _FAULTS_S, concerns)
        plan = Plan(seed, (), _FAULTS_S, tuple(faults), tuple(range(count)), seed % 2 == 0)
        platform = Platform(it, (), overlap=plan.overlap)
        logs, happening = Logs(platform.nats.disk), Happening(it, platform)

        async def publish() -> None:
            keys = [StreamKey("coinbase", c, p) for c in ("ticker", "book", "trades") for p in "AB"]
            streams = [TickStream(key, shard_count=SHARDS) for key in keys]
            async with NatsBroker(["nats://nats:4222"]) as broker:
                await broker.ensure(log_specs(SnapshotterSettings(shard_count=SHARDS)))
                publisher = await broker.publisher()
                while it.loop.time() < _FAULTS_S:
                    for stream in chance.sample(streams, 2):
                        await publisher.send(stream.tick())
                    await asyncio.sleep(chance.uniform(0.0, 0.4))
                await publisher.flush()

        def look() -> None:
            logs.look()
            it.loop.call_later(_POLL_S, look)

        def differ() -> list[str]:
            lines = logs.ticks()
            archive = Archive(platform.stores)
            return [
                *rows_differ(lines, platform.stores, archive),
                *archive_differs(
                    lines, archive, SHARDS, nothing_left_lying=plan.nothing_left_lying
                ),
            ]

        async def script() -> list[str]:
            look()
            for part in _PARTS:
                platform.start(part)
            for fault in plan.faults:
                it.loop.call_at(fault.at_s, partial(happening.begin, fault))
            await done(it, "normalizer", publish)
            await asyncio.sleep(LONGEST_S)
            deadline_s = it.loop.time() + _SETTLE_S
            # Nobody who takes part knows when it is whole, and virtual time costs little.
            while (wrong := differ()) and it.loop.time() < deadline_s:  # noqa: ASYNC110 - see above
                await asyncio.sleep(_POLL_S)
            stopped = [part for part in _PARTS if not platform.running(part)]
            return [*wrong, *stopped, *map(str, it.unhandled), *map(str, it.errors)]

        return it.run(script())


@pytest.mark.parametrize("seed", range(8))
def test_archive_and_rows_are_the_logs_whatever_the_stores_do(seed: int) -> None:
    assert wrong_after(seed) == []
