from __future__ import annotations

import asyncio

from services.snapshotter.intake.bound import IntakeBound


async def test_the_intake_waits_until_less_than_the_limit_is_held() -> None:
    shown: list[float] = []
    bound = IntakeBound("tick.0", 10, shown.append)
    await bound.wait_for_room()
    bound.unacked, bound.refilled, bound.waiting = 5, 3, 2
    assert bound.full
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(bound.wait_for_room())
        await asyncio.sleep(0)
        assert bound.paused
        bound.changed()
        await asyncio.sleep(0)
        assert not waiting.done(), "as much is held as before"
        bound.refilled = 0
        bound.changed()
    assert (bound.paused, bound.held) == (False, 7)
    assert shown == [10, 7]


async def test_what_a_stream_lacks_is_read_though_deliveries_wait_for_it() -> None:
    bound = IntakeBound("tick.0", 10, lambda _held: None)
    bound.waiting = 100
    await bound.wait_for_room_to_restore()
    assert bound.full
