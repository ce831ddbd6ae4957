"""Open gaps of a trades stream: every record of them, word for word, at the edges."""

from __future__ import annotations

import pytest

from services.common.subjects import StreamKey
from services.common.wire import LateBody, Missed, OpenGap
from services.ingestor.streams import late
from services.ingestor.streams.late import OpenTrades
from services.ingestor.testing import Counts
from services.ingestor.tests.test_open_gaps import KEY, NOW, Bench, rows


def told(bench: Bench) -> list[tuple[str, list[tuple[int, int]], list[tuple[int, int]], int]]:
    """Reason, what is lost, what is open still, and when (microseconds after `NOW`) of each."""
    return [
        (
            body.reason,
            [(each.from_, each.to) for each in body.lost],
            [(each.from_, each.to) for each in body.open],
            record.ts_recv - NOW,
        )
        for body, record in zip(bench.bodies(), bench.log.of("late"), strict=True)
    ]


def test_the_oldest_of_too_many_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(late, "MAX_OPEN", 5)
    bench = Bench()
    for number in range(5):
        bench.gap(11 + 2 * number, 11 + 2 * number)
    bench.gap(5001, 5002, NOW + 7)
    assert told(bench) == [("too_many", [(11, 11)], [], 7)]
    assert bench.open.left[0] == (13, 13)
    assert bench.open.left[-1] == (5001, 5002)


def test_while_the_broker_has_no_room_one_more_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(late, "MAX_OPEN", 5)
    bench = Bench()
    for number in range(5):
        bench.gap(11 + 2 * number, 11 + 2 * number)
    bench.log.away = True
    assert len(bench.open.with_gap(5001, 5001, NOW)) == 6


def test_what_readers_were_told_to_be_lost_is_asked_for_again_but_for_what_is_open_anyway() -> None:
    bench = Bench()
    bench.gap(11, 12)
    bench.open.reopen(9, 14, NOW + 5)
    # Missing is what readers go without, so it is a part of none of the gaps before.
    lower, upper = Missed(9, 10, 2), Missed(13, 14, 2)
    assert bench.bodies() == [
        LateBody(lower, [], [lower], [], "open"),
        LateBody(upper, [], [upper], [], "open"),
    ]
    assert bench.open.gaps == (
        OpenGap(Missed(11, 12, 2), NOW),
        OpenGap(lower, NOW + 5),
        OpenGap(upper, NOW + 5),
    )
    assert bench.log.of("late")[-1].open_gaps == list(bench.open.gaps)
    assert {record.ts_recv for record in bench.log.of("late")} == {NOW + 5}
    assert bench.open.count == 6


def test_what_the_venue_denies_is_given_up_in_every_gap_it_belongs_to() -> None:
    bench = Bench()
    bench.gap(11, 15)
    bench.gap(18, 19)
    assert bench.open.deny([(18, 18), (12, 13), (30, 40)], NOW + 3) == 3
    assert told(bench) == [
        ("denied", [(12, 13)], [(11, 11), (14, 15)], 3),
        ("denied", [(18, 18)], [(19, 19)], 3),
    ]
    assert bench.counts.lates == {"denied": 3}


def test_a_gap_as_old_as_the_limit_is_asked_for_still() -> None:
    bench = Bench()
    bench.gap(11, 12, NOW)
    assert bench.open.expire(NOW, NOW + 1) == 0
    assert bench.open.expire(NOW + 1, NOW + 1) == 2


def test_only_the_first_gap_is_written_again_since_each_record_lists_all() -> None:
    bench = Bench()
    bench.gap(11, 12)
    bench.gap(15, 16)
    bench.open.restate(NOW + 9)
    assert told(bench) == [("open", [], [(11, 12)], 9)]
    assert bench.counts.lates == {}
    assert bench.log.of("late")[0].open_gaps is not None
    assert [gap.missed.from_ for gap in bench.log.of("late")[0].open_gaps or ()] == [11, 15]


def renumbered(held: int) -> Bench:
    """Gaps 20..29 and 40..44 are open when the numbering goes on behind `held`."""
    bench = Bench()
    bench.gap(20, 29)
    bench.gap(40, 44)
    bench.open.found(rows(22), NOW)
    bench.log.records.clear()
    bench.open.renumbered(held, NOW + 2)
    return bench


def test_a_numbering_that_begins_anew_outside_of_the_gaps_gives_up_all() -> None:
    for held in (18, 30, 38, 45):
        bench = renumbered(held)
        assert told(bench) == [
            ("renumbered", [(20, 21), (23, 29)], [], 2),
            ("renumbered", [(40, 44)], [], 2),
        ]
        assert bench.open.gaps == ()
        assert bench.counts.lates["renumbered"] == 14


def test_one_that_goes_on_within_a_gap_leaves_what_is_before_asked_for() -> None:
    for held, lost, left in (
        (19, [(20, 21), (23, 29)], []),
        (20, [(21, 21), (23, 29)], [Missed(20, 20)]),
        (21, [(23, 29)], [Missed(20, 21)]),
        (24, [(25, 29)], [Missed(20, 21), Missed(23, 24)]),
        (29, [], [Missed(20, 21), Missed(23, 29)]),
    ):
        bench = renumbered(held)
        whole = [("renumbered", lost, [(each.from_, each.to) for each in left], 2)] if lost else []
        assert told(bench) == [*whole, ("renumbered", [(40, 44)], [], 2)]
        assert bench.open.gaps == ((OpenGap(Missed(20, 29, 10), NOW, left),) if left else ())


def test_one_that_goes_on_where_a_gap_began_leaves_the_gaps_below_asked_for() -> None:
    bench = Bench()
    bench.gap(11, 12)
    bench.gap(20, 29)
    bench.open.renumbered(19, NOW)
    assert bench.open.left == [(11, 12)]


def test_a_broker_without_room_does_not_carry_the_rest_into_the_next_numbering() -> None:
    bench = Bench()
    bench.gap(20, 29)
    bench.gap(40, 44)
    bench.log.away = True
    bench.open.renumbered(24, NOW)
    assert bench.open.gaps == (OpenGap(Missed(20, 29, 10), NOW, [Missed(20, 24)]),)
    bench = Bench()
    bench.gap(0, 5)
    bench.log.away = True
    bench.open.renumbered(3, NOW)
    assert bench.open.left == [(0, 3)]


def test_who_counts_is_told_the_stream() -> None:
    bench = Bench()
    told: list[tuple[StreamKey, str, int]] = []

    class Events(Counts):
        def late(self, key: StreamKey, outcome: str, count: int, /) -> None:
            told.append((key, outcome, count))

    bench.open = OpenTrades(bench.writer, Events())
    bench.gap(11, 12)
    bench.open.found(rows(11), NOW)
    assert told == [(KEY, "found", 1)]
