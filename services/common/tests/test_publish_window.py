"""The publishers' window: tickets, bounds, who waits, and how long the oldest has."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from services.common.errors import BrokerClosed, RecordRefused
from services.common.stream.publish_window import PublishWindow
from services.common.stream.records import InFlight, Position, PublisherStats, Record
from services.common.subjects import pulse_key, raw_subject


def _item(size: int) -> InFlight:
    return InFlight(_record(size), size)


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
    window = PublishWindow[InFlight](max_records, max_bytes, _Clock())
    held: list[InFlight] = []
    taken = 0
    for step in steps:
        if isinstance(step, int):
            full = len(held) >= max_records or sum(i.size for i in held) + step > max_bytes
            assert window.has_room(step) == (not held or not full)
            if window.has_room(step):
                taken += 1
                held.append(_item(step))
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
    window = PublishWindow[InFlight](9, 99, _Clock())
    for _ in range(3):
        window.add(_item(1))
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
    window = PublishWindow[InFlight](9, 99, clock)
    assert window.stalled_s() == 0.0
    window.add(_item(1))
    window.add(_item(1))
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
    window.add(_item(1))
    clock.now = 201.0
    assert window.stalled_s() == 1.0


def test_what_is_in_the_way_is_told_until_something_is_stored_again() -> None:
    window = PublishWindow[InFlight](9, 99, _Clock())
    window.add(_item(1))
    window.trouble = "no space left on device"
    window.wake_done()
    assert window.stats().trouble == "no space left on device"
    window.pop_oldest()
    window.wake_done()
    assert window.stats().trouble is None


def test_a_record_fits_that_fills_the_window_exactly() -> None:
    window = PublishWindow[InFlight](2, 10, _Clock())
    window.add(_item(4))
    assert window.has_room(6)
    assert not window.has_room(7)
    window.add(_item(6))
    assert not window.has_room(0)


def test_a_record_without_a_ticket_says_nothing_of_those_that_have_one() -> None:
    window = PublishWindow[InFlight](9, 99, _Clock())
    window.add(_item(1))
    window.pop_oldest()
    # As one that is written again ahead of all others.
    window.items.append(_item(1))
    window.pop_oldest()
    assert window.horizon == 1


async def test_those_who_wait_for_the_same_are_woken_in_the_order_in_which_they_asked() -> None:
    window = PublishWindow[InFlight](9, 99, _Clock())
    window.add(_item(1))
    woken: list[int] = []

    async def wait(number: int) -> None:
        await window.done(1)
        woken.append(number)

    async with asyncio.TaskGroup() as group:
        for number in range(3):
            group.create_task(wait(number))
        await asyncio.sleep(0)
        window.pop_oldest()
        window.wake_done()
    assert woken == [0, 1, 2]


def test_nothing_was_done_before_the_clock_began() -> None:
    clock = _Clock()
    clock.now = 0.0
    window = PublishWindow[InFlight](9, 99, clock)
    window.add(_item(1))
    clock.now = 1.0
    assert window.stalled_s() == 1.0


def _record(seq: int) -> Record:
    return Record("market.raw.coinbase.trades.BTC-USD", b"", Position(7, seq))


def test_all_that_was_counted_is_told() -> None:
    clock = _Clock()
    window = PublishWindow[InFlight](9, 99, clock)
    assert window.stats() == PublisherStats(0, 0, 0, 0, 0, 0)
    window.add(_item(5))
    clock.now += 3
    window.stored, window.duplicates, window.retried = 1, 2, 3
    window.say_lost("raw", [_record(1), _record(2)])
    window.say_lost("raw", [_record(3)])
    for _ in range(4):
        window.say_refused(_record(4), RecordRefused("subject", "why"), lambda *_: None)
    window.trouble = "no space left"
    assert window.stats() == PublisherStats(
        sent=1,
        stored=1,
        duplicates=2,
        retried=3,
        in_flight=1,
        bytes_in_flight=5,
        stalled_s=3.0,
        trouble="no space left",
        lost=3,
        refused=4,
    )


def test_what_is_lost_is_said_with_its_place() -> None:
    window = PublishWindow[InFlight](9, 99, _Clock())
    with capture_logs() as lines:
        window.say_lost("raw", [_record(seq) for seq in (1, 2, 3)])
    assert lines == [
        {
            "event": "records_lost",
            "log_level": "error",
            "log": "raw",
            "records": 3,
            "subject": "market.raw.coinbase.trades.BTC-USD",
            "first": Position(7, 1),
            "last": Position(7, 3),
            "reason": "not in the log, and a newer record of the subject is",
        }
    ]


@pytest.mark.parametrize("pulse", [False, True])
def test_what_another_writer_took_the_place_of_is_passed_by_and_no_loss(pulse: bool) -> None:
    """Nor is a pulse, whoever wrote the newer one."""
    window = PublishWindow[InFlight](9, 99, _Clock(), replaceable=not pulse)
    record = Record(raw_subject(pulse_key("coinbase", "a")), b"", Position(7, 1))
    with capture_logs() as lines:
        window.say_lost("raw", [record if pulse else _record(1)])
    assert [(line["event"], line["log_level"]) for line in lines] == [
        ("records_passed_by", "warning")
    ]
    assert window.stats().lost == 1


def test_a_refusal_is_said_and_handed_to_whoever_answers_what_stands_in_its_place() -> None:
    window = PublishWindow[InFlight](9, 99, _Clock())
    error, told = RecordRefused("market.raw", "too old"), list[tuple[Record, RecordRefused]]()

    def on_refused(record: Record, why: RecordRefused) -> Record:
        told.append((record, why))
        return _record(9)

    with capture_logs() as lines:
        assert window.say_refused(_record(4), error, on_refused) == _record(9)
    assert told == [(_record(4), error)]
    assert lines == [
        {
            "event": "record_refused",
            "log_level": "error",
            "subject": "market.raw.coinbase.trades.BTC-USD",
            "position": Position(7, 4),
            "reason": "too old",
        }
    ]
    with pytest.raises(RecordRefused) as raised:
        window.say_refused(_record(5), error, None)
    assert raised.value is error
    assert window.stats().refused == 1
