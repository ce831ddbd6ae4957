"""Two normalizers of one group as processes, on real brokers: one works, one stands by."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

from services.common.stream import Broker
from services.common.subjects import tick_log
from services.common.testing.line_pair import ACCIDENTS, Accident, LinePair
from services.common.testing.raw_records import publish_all
from services.common.testing.waiting import eventually
from services.common.wire import RawRecord
from services.normalizer.tests.test_service import (
    SHARDS,
    Environment,
    Service,
    each_kind,
    holds,
    opened,
    service,
    session,
    ticks,
    undisturbed,
)

__all__ = ["each_kind"]  # a fixture

_STEPS = 2000


class Pair(LinePair[Service]):
    """Both, and who puts records before them."""

    def __init__(self, broker: Broker, lines: list[Service], records: list[RawRecord]) -> None:
        super().__init__(lines)
        self.broker = broker
        self._left = records

    async def works(self, line: Service) -> bool:
        return "\nmd_line_active 1.0\n" in (await line.get("/metrics")).text

    async def more(self, count: int = 500) -> None:
        """So many raw records."""
        given, self._left = self._left[:count], self._left[count:]
        assert given
        await publish_all(self.broker, given)

    async def goes_on(self) -> None:
        """The tick logs grow."""
        before = await self._newest()
        await self.more()

        async def grown() -> bool:
            return await self._newest() > before

        await eventually(grown, "more ticks")

    async def _newest(self) -> int:
        lasts = [
            await self.broker.last(subject)
            for shard in range(SHARDS)
            for subject in await self.broker.subjects(tick_log(shard))
            if ".trades." in subject
        ]
        return sum(last.position.seq for last in lasts if last is not None)


async def consuming(line: Service) -> dict[str, Any]:
    """What `/readyz` says of its work: whether that goes on, and since when it does or does not."""
    found: dict[str, Any] = (await line.get("/readyz")).json()["checks"]["consuming"]
    return found


@pytest.mark.parametrize("accident", ACCIDENTS, ids=lambda each: each.__name__)
async def test_the_other_line_goes_on_with_what_an_undisturbed_run_writes(
    each_kind: Environment, accident: Accident
) -> None:
    records = session(_STEPS)
    whole = undisturbed(records)
    async with opened(each_kind) as broker, AsyncExitStack() as stack:
        lines = [
            await stack.enter_async_context(service({**each_kind, "NORMALIZER_STANDBY": "true"}))
            for _ in range(2)
        ]
        pair = Pair(broker, lines, records)
        for line in lines:
            await eventually(line.is_ready)
        for _ in range(2):
            line = await pair.worker()
            await pair.goes_on()
            (other,) = (each for each in lines if each is not line)
            await eventually(other.is_ready)
            ready = await consuming(other)
            # In the middle of these.
            await pair.more()
            await accident(pair, line)
            await pair.goes_on()
            # One that takes over was ready to, and is at no time unready for it.
            assert await consuming(other) == ready
        await pair.more(len(records))
        await eventually(lambda: holds(broker, whole))
        assert await ticks(broker) == whole
        await asyncio.gather(*(eventually(line.is_ready) for line in lines))
