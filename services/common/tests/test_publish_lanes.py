"""In which order a publisher's lanes give out records, at the edges."""

from __future__ import annotations

import pytest

from services.common.stream.nats.publishing.lanes import BatchLane, Contended, Lane


def _idle(lane: Lane[str] | BatchLane[int]) -> bool:
    return lane.idle


def _alone(*identities: str) -> Lane[str]:
    lane = Lane[str](shared=False)
    for identity in identities:
        lane.enqueue("s", identity, identity.upper(), 1)
    return lane


def test_alone_each_record_names_the_one_sent_before_it_and_the_first_is_waited_for() -> None:
    lane = _alone("a", "b", "c")
    assert (lane.shared, lane.newest, lane.refused) == (False, "", False)
    assert lane.next() == ("A", "")
    # Nothing follows the first before it is stored.
    assert lane.next() is None
    lane.stored("s", "a")
    assert lane.newest == "a"
    assert lane.next() == ("B", "a")
    assert lane.next() == ("C", "b")
    assert lane.next() is None
    lane.stored("s", "b")
    lane.stored("s", "c")
    assert lane.newest == "c"
    lane.enqueue("s", "d", "D", 1)
    assert lane.next() == ("D", "c")


def test_another_records_answer_does_not_stand_for_the_first_ones() -> None:
    lane = _alone("a", "b")
    lane.next()
    lane.stored("s", "z")
    assert lane.next() is None


def test_a_lane_that_had_a_record_refused_gives_out_nothing() -> None:
    lane = _alone("a", "b")
    assert lane.next() == ("A", "")
    lane.stored("s", "a")
    lane.refuse()
    assert lane.refused
    assert lane.next() is None


def test_shared_a_subjects_next_record_goes_out_when_the_one_before_it_is_stored() -> None:
    lane = Lane[str](shared=True)
    assert lane.shared
    assert _idle(lane)
    for subject, identity in (("s", "s1"), ("s", "s2"), ("t", "t1"), ("s", "s3")):
        lane.enqueue(subject, identity, identity.upper(), 1)
    assert not _idle(lane)
    assert [lane.next(), lane.next(), lane.next()] == [("S1", ""), ("T1", ""), None]
    assert not _idle(lane)
    lane.stored("s", "s1")
    assert lane.newest == "s1"
    assert [lane.next(), lane.next()] == [("S2", ""), None]
    lane.stored("t", "t1")
    lane.stored("s", "s2")
    assert [lane.next(), lane.next()] == [("S3", ""), None]
    assert not _idle(lane)
    lane.stored("s", "s3")
    assert _idle(lane)
    # What the lane has not given out changes nothing.
    lane.stored("u", "u1")
    assert _idle(lane)
    lane.enqueue("s", "s4", "S4", 1)
    assert not _idle(lane)
    assert lane.next() == ("S4", "")
    lane.stored("s", "s4")
    assert _idle(lane)
    lane.refuse()
    assert not _idle(lane)


def _batches(*sizes: int) -> BatchLane[int]:
    lane = BatchLane[int]()
    for number, size in enumerate(sizes):
        lane.enqueue("s", str(number), number, size)
    return lane


@pytest.mark.parametrize(
    ("max_records", "max_bytes", "batches"),
    [
        (10, 100, [[0, 1, 2, 3]]),
        (2, 100, [[0, 1], [2, 3]]),
        (1, 100, [[0], [1], [2], [3]]),
        (10, 40, [[0, 1, 2, 3]]),
        (10, 39, [[0, 1, 2], [3]]),
        (10, 20, [[0, 1], [2, 3]]),
        (10, 19, [[0], [1], [2], [3]]),
        # One that is larger than a batch may be goes alone.
        (10, 1, [[0], [1], [2], [3]]),
    ],
)
def test_batches_are_bounded_and_each_waits_for_the_one_before(
    max_records: int, max_bytes: int, batches: list[list[int]]
) -> None:
    lane = _batches(10, 10, 10, 10)
    assert (lane.shared, lane.refused) == (False, False)
    for batch in batches:
        assert not _idle(lane)
        assert lane.next(max_records, max_bytes) == batch
        assert lane.next(max_records, max_bytes) == []
        assert not _idle(lane)
        assert lane.stored(batch[0] - 1) == []
        assert lane.stored(batch[-1]) == batch
        assert lane.stored(batch[-1]) == []
    assert _idle(lane)
    assert lane.next(max_records, max_bytes) == []


def test_a_batch_that_is_refused_ends_the_lane_and_is_told() -> None:
    lane = _batches(1, 1)
    assert lane.next(1, 100) == [0]
    assert lane.refuse(5) == []
    assert lane.refused
    assert lane.refuse(0) == [0]
    assert lane.next(1, 100) == []
    assert not _idle(lane)
    assert _batches(1).refuse(0) == []
    # Also with nothing left to send.
    empty = BatchLane[int]()
    assert _idle(empty)
    empty.refuse(0)
    assert not _idle(empty)


def test_a_log_counts_as_shared_for_twice_as_long_when_seen_again_soon() -> None:
    logs = Contended()
    assert ("log", 0.0) not in logs
    assert logs.seen("log", 100.0) == 30.0
    assert ("log", 100.0) in logs
    assert ("log", 129.0) in logs
    assert ("log", 130.0) not in logs
    assert ("other", 100.0) not in logs
    # Until as long again after its end is soon.
    assert logs.seen("log", 160.0) == 60.0
    assert ("log", 219.0) in logs
    assert logs.seen("log", 280.1) == 30.0
    periods = [logs.seen("log", 280.1) for _ in range(9)]
    assert periods == [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]
