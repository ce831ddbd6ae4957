"""What is stored next stands on what it follows, or is not stored."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.common.stream.holes import first_on_a_hole
from services.common.stream.records import Position, Record


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
