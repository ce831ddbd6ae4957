"""A stream's recent records in memory: their bounds, and what is handed out, at the edges."""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import pytest

from services.common.stream import Position
from services.common.wire import Fields
from services.gateway.chain.stream_record import StreamRecord
from services.gateway.chain.window import Budget, Run, Window
from services.gateway.testing import EPOCH, Market
from services.gateway.websocket.rfc6455.frames import text_frame

MUCH = 10**6


def _ticks(market: Market, count: int, size: int = 1) -> list[StreamRecord]:
    # Of one length each, whatever their seq.
    market.clock = lambda: 1
    market.seq = market.seq or 1_000_000
    return [StreamRecord(market.tick(Fields(volume_30d="1" * size)).payload) for _ in range(count)]


def _window(
    entries: Sequence[StreamRecord], most: int = MUCH, budget: Budget | None = None
) -> Window:
    window = Window(budget or Budget(MUCH), most)
    for entry in entries:
        window.append(entry)
    return window


def _frames(entries: Sequence[StreamRecord]) -> bytes:
    return b"".join(text_frame(message) for entry in entries for message in entry.messages())


def test_it_holds_nothing_before_the_first_record_and_all_behind_that_ones_predecessor() -> None:
    budget = Budget(MUCH)
    window = Window(budget, MUCH)
    assert (len(window), list(window), window.size, window.start) == (0, [], 0, None)
    assert not window.covers(Position(EPOCH, 0))
    assert window.run_after(Position(0, 0)) is None
    assert window.first_after(Position(0, 0)) is None
    assert not window.drop_oldest()
    entries = _ticks(Market(None), 3)
    for entry in entries:
        window.append(entry)
    assert (len(window), list(window)) == (3, entries)
    assert window.start == entries[0].before
    assert window.covers(entries[0].before)
    assert not window.covers(Position(EPOCH, entries[0].before.seq - 1))
    assert window.size == budget.used > sum(entry.size for entry in entries)


def test_a_restart_drops_all_and_says_from_where_it_goes_on() -> None:
    budget = Budget(MUCH)
    market = Market(None)
    window = _window(_ticks(market, 3), budget=budget)
    start = Position(EPOCH, 7)
    window.restart(start)
    assert (len(window), window.size, budget.used, window.start) == (0, 0, 0, start)
    assert window.covers(start)
    (entry,) = _ticks(market, 1)
    window.append(entry)
    # What it was told stands, whatever the first record says.
    assert window.start == start


def test_a_closed_window_gives_its_room_back_and_is_kept_by_nobody() -> None:
    budget = Budget(MUCH)
    market = Market(None)
    other = _window(_ticks(market, 2), budget=budget)
    window = _window(_ticks(market, 3), budget=budget)
    window.close()
    assert budget.used == other.size
    gone = weakref.ref(window)
    del window
    assert gone() is None


def test_the_budget_is_used_up_to_the_last_byte_and_then_taken_from_the_largest() -> None:
    market = Market(None)
    one = _ticks(market, 1)[0]
    cost = _window([one]).size
    budget = Budget(6 * cost)
    small = _window(_ticks(market, 2), 16, budget)
    assert len(small) == 0, "no record fits into so small a window"
    small = _window(_ticks(market, 2), 2 * cost, budget)
    large = _window(_ticks(market, 4), 16 * cost, budget)
    assert (len(small), len(large), budget.used) == (2, 4, 6 * cost)
    large.append(_ticks(market, 1)[0])
    assert (len(small), len(large), budget.used) == (2, 4, 6 * cost)
    small.append(_ticks(market, 1)[0])
    assert (len(small), len(large), budget.used) == (2, 4, 6 * cost)


def test_a_full_window_drops_no_more_than_a_sixteenth_at_once() -> None:
    market = Market(None)
    cost = _window(_ticks(market, 1)).size
    window = Window(Budget(MUCH), 160 * cost)
    entries = _ticks(market, 1000)
    for number, entry in enumerate(entries, 1):
        window.append(entry)
        assert min(number, 150) <= len(window) <= 160
        assert window.size == len(window) * cost
        oldest = next(iter(window))
        assert window.start == oldest.before
    assert list(window) == entries[-len(window) :]


def test_a_record_that_is_not_one_message_stands_alone_and_is_never_framed_for_all() -> None:
    market = Market(None)
    before = _ticks(market, 2)
    reset = StreamRecord(market.reset({"volume_30d": "1"}).payload)
    after = _ticks(market, 2)
    window = _window([*before, reset, *after])
    assert window.run_after(before[0].before) == Run(before, 2, _frames(before))
    assert window.run_after(before[1].position) == Run([reset], 1, None)
    run = window.run_after(reset.position)
    assert run is not None
    assert (list(run.records), run.chained) == (after, 2)
    assert window.first_after(before[1].position) is reset
    assert window.first_after(after[1].position) is None


@pytest.mark.parametrize(("count", "framed"), [(1, False), (9, False), (10, True), (30, True)])
def test_frames_are_joined_once_they_are_worth_it(count: int, *, framed: bool) -> None:
    market = Market(None)
    cost = _window(_ticks(market, 1)).size
    # Segments of 80 records: from an eighth of them on, who asks has them joined.
    entries = _ticks(market, count)
    window = _window(entries, 16 * 80 * cost)
    run = window.run_after(entries[0].before)
    assert run == Run(entries, count, _frames(entries) if framed else None)
    # What comes later is another run where this one was closed.
    more = _ticks(market, 1)
    window.append(more[0])
    run = window.run_after(entries[0].before)
    assert run is not None
    assert list(run.records) == (entries if framed else entries + more)


def test_a_run_from_the_middle_says_what_stands_there() -> None:
    market = Market(None)
    first, second = _ticks(market, 2)
    status = StreamRecord(market.status().payload)
    third, fourth = _ticks(market, 2)
    entries = [first, second, status, third, fourth]
    reset = StreamRecord(market.reset(repair="none").payload)
    for window in (_window(entries), _window([*entries, reset])):
        for at, held in enumerate([first.before, *(entry.position for entry in entries[:-1])]):
            run = window.run_after(held)
            assert run is not None
            assert list(run.records) == entries[at:]
            assert run.chained == sum(entry.chained for entry in entries[at:])
            assert run.frames in (None, _frames(entries[at:]))
    plain = [*_ticks(market, 4)]
    closed = _window([*plain, StreamRecord(market.reset(repair="none").payload)])
    run = closed.run_after(plain[1].position)
    assert run == Run(plain[2:], 2, _frames(plain[2:]))
    assert _window(entries).first_after(second.position) is third


def test_one_large_record_takes_the_place_of_as_many_as_it_needs() -> None:
    market = Market(None)
    cost = _window(_ticks(market, 1)).size

    def large(times: int) -> StreamRecord:
        return StreamRecord(market.tick(Fields(volume_30d="1" * times * cost)).payload)

    # A segment for each record.
    window = _window(_ticks(market, 16), 16 * cost)
    window.append(large(5))
    assert 7 * cost < window.size <= 16 * cost
    budget = Budget(16 * cost)
    for _ in range(2):
        _window(_ticks(market, 8), 16 * cost, budget)
    Window(budget, MUCH).append(large(5))
    assert 12 * cost < budget.used <= 16 * cost
    window = _window(_ticks(market, 1))
    assert window.drop_oldest()
    assert not window.drop_oldest()


def test_the_first_record_of_the_chain_is_found_behind_any_number_of_others() -> None:
    market = Market(None)
    (first,) = _ticks(market, 1)
    statuses = [StreamRecord(market.status().payload) for _ in range(20)]
    (second,) = _ticks(market, 1)
    # Segments of three statuses.
    window = _window([first, *statuses, second], 16 * 3 * (statuses[0].size + 250))
    for position in (first.position, *(status.position for status in statuses)):
        assert window.first_after(position) is second
