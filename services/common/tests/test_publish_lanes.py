"""In which order a publisher's lanes give out records, at the edges."""

from __future__ import annotations

import pytest

from services.common.stream.nats.publishing.lanes import BatchLane, Contended, Lane


def _idle(lane: Lane[str] | BatchLane[int]) -> bool:
    return lane.idle


def test_a_lane_that_had_a_record_refused_gives_out_nothing() -> None:
    lane = Lane[str](runs=True)
    lane.enqueue("s", "a", "A", 1)
    lane.enqueue("t", "b", "B", 1)
    assert lane.next(1) == [("A", "")]
    lane.refuse()
    assert lane.refused
    assert lane.next(1) == []


def _given_out(lane: Lane[str]) -> list[tuple[str, str]]:
    given = []
    while ready := lane.next(1_000_000):
        given += ready
    return given


@pytest.mark.parametrize("runs", [False, True])
def test_a_subjects_next_record_goes_out_when_the_one_before_it_is_stored(runs: bool) -> None:
    lane = Lane[str](runs=runs)
    assert _idle(lane)
    for item in ("s1", "t1"):
        lane.enqueue(item[0], item, item.upper(), 1)
    assert not _idle(lane)
    assert _given_out(lane) == [("S1", ""), ("T1", "")]
    lane.enqueue("s", "s2", "S2", 1)
    assert _given_out(lane) == []
    assert not _idle(lane)
    lane.stored("s")
    assert _given_out(lane) == [("S2", "")]
    lane.stored("t")
    assert not _idle(lane)
    lane.stored("s")
    assert _idle(lane)
    # What the lane has not given out changes nothing.
    lane.stored("u")
    assert _idle(lane)
    lane.enqueue("s", "s4", "S4", 1)
    assert not _idle(lane)
    assert _given_out(lane) == [("S4", "")]
    lane.stored("s")
    assert _idle(lane)
    lane.refuse()
    assert not _idle(lane)


def test_a_run_is_of_one_subject_and_each_of_it_names_the_one_before() -> None:
    lane = Lane[str](runs=True)
    for item in ("s1", "s2", "t1", "s3", "t2"):
        lane.enqueue(item[0], item, item.upper(), 1)
    s_run, t_run = [("S1", ""), ("S2", "s1"), ("S3", "s2")], [("T1", ""), ("T2", "t1")]
    assert _given_out(lane) == s_run + t_run
    # The next goes out when all of the run are stored.
    lane.enqueue("s", "s4", "S4", 1)
    lane.enqueue("s", "s5", "S5", 1)
    lane.stored("s")
    lane.stored("s")
    assert _given_out(lane) == []
    lane.stored("s")
    assert _given_out(lane) == [("S4", ""), ("S5", "s4")]
    assert not _idle(lane)
    for subject in "tsts":
        lane.stored(subject)
    assert _idle(lane)


def test_what_is_written_at_a_time_is_bounded_and_a_run_ends_where_it_is_cut() -> None:
    lane = Lane[str](runs=True)
    for item in ("s1", "s2", "s3", "t1"):
        lane.enqueue(item[0], item, item.upper(), 10)
    assert lane.next(20) == [("S1", ""), ("S2", "s1")]
    # One that is larger than what may be written goes too.
    assert lane.next(1) == [("T1", "")]
    assert lane.next(100) == []
    lane.enqueue("s", "s4", "S4", 10)
    lane.stored("s")
    assert lane.next(100) == []
    lane.stored("s")
    assert lane.next(11) == [("S3", ""), ("S4", "s3")]


def test_without_runs_each_waits_for_the_one_before_however_many_wait() -> None:
    lane = Lane[str](runs=False)
    for number in range(4):
        lane.enqueue("s", f"s{number}", f"S{number}", 1)
    given = []
    for _ in range(4):
        given.append(_given_out(lane))
        lane.stored("s")
    assert given == [[("S0", "")], [("S1", "")], [("S2", "")], [("S3", "")]]


def test_a_run_is_bounded() -> None:
    lane = Lane[str](runs=True)
    for number in range(600):
        lane.enqueue("s", f"s{number}", "S", 1)
    sizes = []
    while given := _given_out(lane):
        sizes.append(len(given))
        for _ in given:
            lane.stored("s")
    assert sizes == [256, 256, 88]


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
    assert not lane.refused
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
