"""What is stored next stands on what it follows, or is not stored."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import LogWentBack
from services.common.stream.holes import Predecessor, first_on_a_hole
from services.common.stream.proof import Proof
from services.common.stream.records import InFlight, Position, Record


def _record(number: int) -> Record:
    return Record("market.raw.coinbase.trades.BTC-USD", b"", Position(1, number))


def _before(record: Record) -> Position | None:
    number = record.position.seq
    return Position(1, number - 1) if number > 1 else None


@given(st.integers(0, 12), st.sets(st.integers(1, 20)))
def test_the_first_record_whose_predecessor_is_not_there_is_found(
    newest: int, numbers: set[int]
) -> None:
    stored = set(range(1, newest + 1))
    expected = None
    for number in sorted(numbers - stored):
        if number > 1 and number - 1 not in stored:
            expected = number
            break
        stored.add(number)
    held = Position(1, newest) if newest else None
    found = first_on_a_hole(held, map(_record, sorted(numbers)), _before)
    assert (None if found is None else found.position.seq) == expected


def test_one_that_follows_nothing_may_stand_anywhere() -> None:
    records = [_record(4), _record(9)]
    assert first_on_a_hole(Position(1, 2), records, lambda _record: None) is None


def test_what_was_stored_or_passed_by_is_not_asked_about() -> None:
    def refuse(record: Record) -> Position | None:
        raise AssertionError(record)

    assert first_on_a_hole(Position(1, 9), [_record(4), _record(9)], refuse) is None


class _Log:
    """Where each of two streams ends; what was asked."""

    def __init__(self, **ends: int | None) -> None:
        self.ends = ends
        self.asked: list[list[str]] = []

    async def newest_of(self, streams: Sequence[str]) -> dict[str, Position | None]:
        self.asked.append(list(streams))
        known = [stream for stream in streams if stream in self.ends]
        ends = {stream: self.ends[stream] for stream in known}
        return {stream: None if end is None else Position(1, end) for stream, end in ends.items()}


def _item(stream: str, number: int) -> InFlight:
    return InFlight(Record(stream, b"", Position(1, number)), 0)


def _proof(log: _Log, predecessor: Predecessor | None = _before) -> Proof[str, InFlight]:
    return Proof(predecessor, lambda item: item.record.subject, log.newest_of)


async def test_nothing_is_asked_before_the_first_outage_or_of_who_knows_no_predecessors() -> None:
    log = _Log(a=5)
    await _proof(log).check([_item("a", 9)])
    careless = _proof(log, None)
    careless.doubt()
    await careless.check([_item("a", 9)])
    assert log.asked == []


async def test_each_stream_is_asked_once_after_an_outage() -> None:
    log = _Log(a=5, b=None)
    proof = _proof(log)
    proof.doubt()
    await proof.check([_item("a", 6), _item("b", 1), _item("a", 7)])
    await proof.check([_item("b", 9), _item("a", 9)])
    assert log.asked == [["a", "b"]]
    proof.doubt()
    with pytest.raises(LogWentBack) as told:
        await proof.check([_item("a", 9)])
    assert (told.value.position, told.value.newest) == (Position(1, 9), Position(1, 5))


async def test_what_stands_goes_on_beside_what_would_stand_above_a_hole() -> None:
    proof = _proof(_Log(a=5, b=None))
    proof.doubt()
    items = [_item("a", 6), _item("b", 2), _item("a", 8), _item("b", 3), _item("c", 4)]
    standing, hole = await proof.sort_out(items)
    # Of "c" nothing can be said, and nothing stored: that is told where it is tried.
    assert standing == [items[0], items[4]]
    assert hole is not None
    assert hole.subject in {"a", "b"}
    # The others' part is there now.
    filled = _proof(_Log(a=7, b=1))
    filled.doubt()
    assert await filled.sort_out(items) == (items, None)
