"""The publishers' window: tickets, bounds, who waits, and how long the oldest has."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import BrokerClosed
from services.common.stream.publish_window import PublishWindow


class _Item(msgspec.Struct, gc=False, eq=False):
    size: int
    ticket: int = 0
    taken_at: float = 0.0


class _Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@given(
    st.lists(st.one_of(st.integers(0, 60), st.just("done")), max_size=60),
    st.integers(1, 6),
    st.integers(1, 120),
)
def test_a_window_keeps_its_bounds_and_lets_go_in_the_order_taken(
    steps: list[int | str], max_records: int, max_bytes: int
) -> None:
    window = PublishWindow[_Item](max_records, max_bytes, _Clock())
    held: list[_Item] = []
    taken = 0
    for step in steps:
        if isinstance(step, int):
            full = len(held) >= max_records or sum(i.size for i in held) + step > max_bytes
            assert window.has_room(step) == (not held or not full)
            if window.has_room(step):
                taken += 1
                held.append(_Item(step))
                assert window.add(held[-1]) == taken
        elif held:
            assert window.pop_oldest() is held.pop(0)
        stats = window.stats()
        assert (stats.sent, stats.in_flight) == (taken, len(held))
        assert stats.bytes_in_flight == sum(item.size for item in held)
        assert window.horizon == taken - len(held)


async def test_who_waits_is_woken_when_all_before_is_done_and_told_when_nothing_more_will_be() -> (
    None
):
    window = PublishWindow[_Item](9, 99, _Clock())
    for _ in range(3):
        window.add(_Item(1))
    waits = [asyncio.ensure_future(window.done(ticket)) for ticket in (3, 1, 2)]
    await asyncio.sleep(0)
    window.pop_oldest()
    window.pop_oldest()
    window.wake_done()
    await asyncio.sleep(0)
    assert [wait.done() for wait in waits] == [False, True, True]
    await window.done(2)
    window.end(lambda: BrokerClosed("publisher"))
    with pytest.raises(BrokerClosed):
        await waits[0]


def test_the_oldest_is_waited_for_since_it_was_taken_or_the_one_before_it_was_done() -> None:
    clock = _Clock()
    window = PublishWindow[_Item](9, 99, clock)
    assert window.stalled_s() == 0.0
    window.add(_Item(1))
    window.add(_Item(1))
    clock.now = 107.0
    assert window.stalled_s() == 7.0
    window.pop_oldest()
    window.wake_done()
    assert window.stalled_s() == 0.0
    clock.now = 109.0
    # Nothing was let go of.
    window.wake_done()
    assert window.stalled_s() == 2.0
    window.pop_oldest()
    window.wake_done()
    clock.now = 200.0
    assert window.stalled_s() == 0.0
    window.add(_Item(1))
    clock.now = 201.0
    assert window.stalled_s() == 1.0


def test_what_is_in_the_way_is_told_until_something_is_stored_again() -> None:
    window = PublishWindow[_Item](9, 99, _Clock())
    window.add(_Item(1))
    window.trouble = "no space left on device"
    window.wake_done()
    assert window.stats().trouble == "no space left on device"
    window.pop_oldest()
    window.wake_done()
    assert window.stats().trouble is None
