from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.ingestor.testing.streams import NOW
from services.ingestor.testing.streams import BookBench as Bench
from services.ingestor.venues.base import BookImage


def test_updates_before_the_snapshot_are_dropped() -> None:
    """An old and a new socket overlap during a reconnect (xchange-stream #440)."""
    bench = Bench()
    bench.update(1, 2)
    bench.snapshot(3)
    bench.update(4)
    assert bench.written == [("resync", 3), ("frame", 4)]
    assert b'"cause":"start"' in bytes(bench.log.of("resync")[0].body)


def test_every_reconnect_begins_with_a_new_base() -> None:
    bench = Bench()
    bench.snapshot(1)
    bench.stream.lost(NOW)
    bench.update(2)
    bench.snapshot(3)
    bench.update(4)
    assert bench.written == [("resync", 1), ("resync", 3), ("frame", 4)]
    assert b'"cause":"reconnect"' in bytes(bench.log.of("resync")[1].body)


def test_a_suspect_book_asks_once_and_trusts_the_next_snapshot() -> None:
    bench = Bench()
    bench.snapshot(1)
    bench.stream.distrust("gap", "trades are missing", NOW)
    bench.stream.distrust("gap", "trades are missing", NOW)
    assert bench.asked == 1
    bench.update(2)
    bench.snapshot(3)
    assert not bench.stream.suspect
    assert b'"cause":"gap"' in bytes(bench.log.of("resync")[1].body)
    assert bench.counts.outcomes == ["snapshot"]


def test_an_update_older_than_the_base_is_part_of_it() -> None:
    bench = Bench()
    bench.snapshot(10)
    bench.update(9, 10, 12)
    # What has the base's own time may not be part of it.
    assert bench.written == [("resync", 10), ("frame", 11), ("frame", 12)]
    assert not bench.stream.suspect


def test_an_update_that_goes_back_is_dropped_and_makes_the_book_suspect() -> None:
    bench = Bench()
    bench.snapshot(1)
    bench.update(5, 3)
    assert bench.written == [("resync", 1), ("frame", 5)]
    assert bench.stream.suspect
    assert bench.counts.gaps == ["reordered"]


def test_a_repeated_update_is_a_duplicate() -> None:
    bench = Bench()
    bench.snapshot(1)
    bench.update(5, 5, 6, 5)
    assert bench.written == [("resync", 1), ("frame", 5), ("frame", 6)]
    assert not bench.stream.suspect


def test_updates_of_one_time_are_all_passed_on_at_increasing_positions() -> None:
    """One event of the matching engine, one message for each level it changes."""
    bench = Bench()
    bench.snapshot(1)
    bodies = [b'{"a":1}', b'{"b":1}', b'{"a":1}', b'{"c":1}']
    for body in bodies:
        bench.stream.update(NOW + 5, body, NOW + 5)
    bench.update(20)
    assert [seq for _, seq in bench.written] == [1, 5, 6, 7, 8, 20]
    assert [bytes(record.body) for record in bench.log.of("frame")][:4] == bodies
    assert not bench.stream.suspect
    assert bench.stream.duplicates == 0


def test_a_fetched_book_is_followed_by_the_updates_that_waited_and_are_newer() -> None:
    bench = Bench()
    bench.snapshot(1)
    bench.update(2)
    bench.stream.distrust("gap", "trades are missing", NOW)
    bench.stream.hold()
    bench.update(3, 4, 5)
    assert bench.stream.image(BookImage(NOW + 4, 0, b'{"rest":4}'), NOW + 6)
    assert bench.written == [
        *(("resync", 1), ("frame", 2), ("resync", 4)),
        # At the image's time, and after it.
        *(("frame", 5), ("frame", 6)),
    ]


def test_a_fetched_book_older_than_what_was_passed_on_is_asked_for_again() -> None:
    """A CDN's copy, or a snapshot behind the first queued message (coinbasepro-python #212)."""
    bench = Bench()
    bench.snapshot(1)
    bench.update(5)
    bench.stream.distrust("gap", "trades are missing", NOW)
    bench.stream.hold()
    bench.update(7)
    assert not bench.stream.image(BookImage(NOW + 4, 0, b"{}"), NOW + 8)
    assert bench.stream.image(BookImage(NOW + 6, 0, b"{}"), NOW + 8)
    assert bench.written == [("resync", 1), ("frame", 5), ("resync", 6), ("frame", 7)]


def test_updates_let_go_before_a_fetched_book_make_an_older_copy_useless() -> None:
    bench = Bench()
    bench.update(5)
    bench.stream.hold()
    bench.update(6)
    assert not bench.stream.image(BookImage(NOW + 4, 0, b"{}"), NOW + 8)
    assert bench.stream.image(BookImage(NOW + 5, 0, b"{}"), NOW + 8)
    assert bench.written == [("resync", 5), ("frame", 6)]


def test_a_fetched_book_of_a_lost_connection_is_not_used() -> None:
    bench = Bench()
    bench.snapshot(1)
    bench.stream.distrust("gap", "trades are missing", NOW)
    bench.stream.hold()
    bench.stream.lost(NOW)
    assert bench.stream.image(BookImage(NOW + 9, 0, b"{}"), NOW + 9)
    assert bench.written == [("resync", 1)]


def test_after_a_failed_fetch_the_waiting_updates_go_on() -> None:
    bench = Bench()
    bench.snapshot(1)
    bench.stream.distrust("gap", "trades are missing", NOW)
    bench.stream.hold()
    bench.update(2, 3)
    bench.stream.release()
    assert bench.written == [("resync", 1), ("frame", 2), ("frame", 3)]
    assert bench.stream.suspect


def test_nothing_but_a_new_base_follows_an_update_the_broker_had_no_room_for() -> None:
    bench = Bench()
    bench.snapshot(1)
    bench.log.away = True
    bench.update(2, 3)
    bench.log.away = False
    bench.update(4)
    assert bench.written == [("resync", 1)]
    bench.snapshot(5)
    bench.update(6)
    assert bench.written == [("resync", 1), ("resync", 5), ("frame", 6)]
    assert b'"cause":"broker_away"' in bytes(bench.log.of("resync")[1].body)


def test_a_message_without_a_sensible_time_keeps_the_order() -> None:
    """Year 0001 has been recorded for Coinbase; a far future would block all that follows."""
    bench = Bench()
    bench.snapshot(1)
    bench.stream.update(0, b"{}", NOW + 2)
    bench.stream.update(NOW * 2, b"{}", NOW + 3)
    assert bench.written == [("resync", 1), ("frame", 2), ("frame", 3)]


def test_a_replay_of_old_times_after_a_restart_is_forced_to_increase() -> None:
    bench = Bench(held=NOW + 50)
    bench.snapshot(1)
    bench.update(2)
    bench.stream.lost(NOW)
    bench.snapshot(1)
    bench.update(2)
    assert bench.written == [("resync", 51), ("frame", 52), ("resync", 53), ("frame", 54)]


@given(
    words=st.lists(
        st.tuples(
            st.sampled_from(["update", "snapshot", "lost", "away", "back", "hold", "image"]),
            st.integers(1, 40),
        )
    )
)
def test_what_is_written_is_one_chain_and_begins_each_trust_with_a_base(
    words: list[tuple[str, int]],
) -> None:
    bench = Bench()
    for word, time in words:
        match word:
            case "update":
                bench.update(time)
            case "snapshot":
                bench.snapshot(time)
            case "lost":
                bench.stream.lost(NOW)
            case "hold":
                bench.stream.hold()
            case "image":
                bench.stream.image(BookImage(NOW + time, 0, b"{}"), NOW)
            case _:
                bench.log.away = word == "away"
    bench.log.check_chain()
    kinds = [kind for kind, _ in bench.written]
    assert kinds[:1] in ([], ["resync"])
