from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.snapshotter.pacing import Concurrency, Pacer

PERIOD = 10.0


def test_first_change_is_due_at_once_and_the_next_after_the_period() -> None:
    pacer: Pacer[str] = Pacer(PERIOD)
    pacer.changed("a", 100.0)
    assert pacer.start_due(100.0, 5) == ["a"]
    pacer.done("a", 101.0)
    pacer.changed("a", 102.0)
    assert pacer.start_due(109.9, 5) == []
    assert pacer.next_due() == 110.0
    assert pacer.start_due(110.0, 5) == ["a"]


def test_change_while_the_work_runs_makes_it_due_again() -> None:
    pacer: Pacer[str] = Pacer(PERIOD)
    pacer.changed("a", 0.0)
    pacer.start_due(0.0, 1)
    pacer.changed("a", 1.0)
    assert pacer.start_due(50.0, 1) == []
    pacer.done("a", 2.0)
    assert pacer.next_due() == PERIOD


def test_urgent_change_does_not_wait_for_the_period() -> None:
    pacer: Pacer[str] = Pacer(PERIOD)
    pacer.changed("a", 0.0)
    pacer.start_due(0.0, 1)
    pacer.done("a", 0.0)
    pacer.changed("a", 1.0)
    pacer.changed("a", 2.0, at_once=True)
    assert pacer.start_due(2.0, 1) == ["a"]
    assert pacer.next_due() is None


def test_failed_work_comes_again_after_its_delay_also_when_draining() -> None:
    pacer: Pacer[str] = Pacer(PERIOD)
    pacer.changed("a", 0.0)
    pacer.start_due(0.0, 1)
    pacer.failed("a", 1.0, 3.0)
    assert not pacer.idle
    assert pacer.start_due(3.9, 1) == []
    assert pacer.start_due(4.0, 1) == ["a"]


def test_draining_makes_what_waits_due_now() -> None:
    pacer: Pacer[str] = Pacer(PERIOD)
    pacer.changed("a", 0.0)
    pacer.start_due(0.0, 1)
    pacer.done("a", 0.0)
    pacer.changed("a", 1.0)
    pacer.drain(2.0)
    assert pacer.start_due(2.0, 1) == ["a"]
    pacer.changed("a", 2.5)
    pacer.done("a", 3.0)
    assert pacer.start_due(3.0, 1) == ["a"]
    pacer.done("a", 3.0)
    assert pacer.idle


def test_longest_waiting_items_go_first() -> None:
    pacer: Pacer[str] = Pacer(PERIOD)
    for at, item in enumerate("abc"):
        pacer.changed(item, float(at))
    assert pacer.start_due(5.0, 2) == ["a", "b"]
    assert pacer.running == 2


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["change", "urgent", "take", "done", "failed"]),
            st.integers(0, 3),
            st.floats(0, 7),
        ),
        max_size=80,
    )
)
def test_no_change_is_ever_forgotten_and_work_never_overlaps(
    steps: list[tuple[str, int, float]],
) -> None:
    pacer: Pacer[int] = Pacer(PERIOD)
    now = 0.0
    unwritten: set[int] = set()
    running: set[int] = set()
    for action, item, passed in steps:
        now += passed
        if action in ("change", "urgent"):
            pacer.changed(item, now, at_once=action == "urgent")
            unwritten.add(item)
        elif action == "take":
            for taken in pacer.start_due(now, 2):
                assert taken not in running
                running.add(taken)
                unwritten.discard(taken)
        elif item in running:
            running.discard(item)
            if action == "done":
                pacer.done(item, now)
            else:
                pacer.failed(item, now, 1.0)
                unwritten.add(item)
    for item in running:
        pacer.done(item, now)
    pacer.drain(now)
    assert set(pacer.start_due(now + PERIOD, 10)) == unwritten
    for item in unwritten:
        pacer.done(item, now)
    assert pacer.idle


def test_writes_that_queue_in_the_store_become_fewer_and_fast_ones_more_again() -> None:
    concurrency = Concurrency(32)
    for _ in range(200):
        # A store that does fifty writes a second, whatever is asked of it.
        concurrency.finished(concurrency.limit / 50)
    assert concurrency.limit <= 6
    for _ in range(2000):
        concurrency.finished(0.005)
    assert concurrency.limit == 32


def test_a_far_store_is_not_taken_for_a_slow_one() -> None:
    concurrency = Concurrency(32)
    for n in range(2000):
        concurrency.finished(0.08 + n % 7 * 0.01)
    assert concurrency.limit == 32


@given(st.integers(1, 64), st.lists(st.none() | st.floats(0.0, 60.0), max_size=300))
def test_there_is_always_room_for_a_write_and_never_for_more_than_the_most(
    most: int, writes: list[float | None]
) -> None:
    concurrency = Concurrency(most)
    for seconds in writes:
        if seconds is None:
            concurrency.failed()
        else:
            concurrency.finished(seconds)
        assert 1 <= concurrency.limit <= most
