"""Books at the edges: what is counted and said, and what waits for a base."""

from __future__ import annotations

from services.common.subjects import StreamKey
from services.ingestor.integrity.book_replica import BookReplica
from services.ingestor.integrity.sequencer import Numbering, Sequencer
from services.ingestor.streams import BookStream
from services.ingestor.streams.raw_writer import RawStreamWriter
from services.ingestor.streams.stream import StreamStateTracker
from services.ingestor.testing import Counts, RawLog
from services.ingestor.testing.streams import BOOK, NOW, statuses
from services.ingestor.testing.streams import BookBench as Bench
from services.ingestor.venues.base import BookImage


def connected() -> Bench:
    """One whose stream is live, so that what ails it is its state."""
    bench = Bench()
    bench.stream.state.clear("down", "joined", NOW)
    bench.snapshot(1)
    return bench


def test_each_message_is_counted_and_so_is_what_came_before_a_base() -> None:
    bench = Bench()
    bench.update(1, 2, 3)
    assert (bench.stream.messages, bench.stream.unbased) == (3, 3)
    bench.snapshot(4)
    bench.snapshot(5)
    assert (bench.stream.messages, bench.stream.resyncs) == (5, 2)
    assert bench.stream.extra() == {"held": 0, "based": True, "resyncs": 2, "audited": 0}


def test_a_snapshot_that_nobody_asked_for_is_the_venues_own() -> None:
    bench = connected()
    bench.snapshot(2)
    assert b'"cause":"venue"' in bytes(bench.log.of("resync")[1].body)


def test_repetitions_and_what_a_base_holds_already_are_counted() -> None:
    bench = Bench()
    bench.snapshot(10)
    bench.update(7, 8, 9)
    assert bench.stream.duplicates == 3
    bench.update(11, 11, 11, 11)
    assert bench.stream.duplicates == 6
    assert bench.written == [("resync", 10), ("frame", 11)]


def test_an_update_that_goes_back_is_said() -> None:
    bench = connected()
    bench.update(5, 4)
    assert bench.counts.drops == {"reordered": 1}
    assert statuses(bench.log)[-1] == ("resyncing", "an update older than the one before it", 4)
    bench.snapshot(6)
    assert statuses(bench.log)[-1] == ("live", "new snapshot (reordered)", 6)


def test_lost_trades_make_it_suspect_and_that_is_said() -> None:
    bench = connected()
    bench.stream.trades_missing(NOW + 2)
    assert bench.counts.gaps == ["gap"]
    assert statuses(bench.log)[-1] == ("resyncing", "trades of this product are missing", 2)


def test_what_it_is_unbased_for_is_said() -> None:
    bench = connected()
    bench.stream.unbase("record_refused", "an update is not in the log", NOW + 2)
    assert (bench.stream.based, bench.asked) == (False, 1)
    assert statuses(bench.log)[-1] == ("resyncing", "an update is not in the log", 2)


SECOND = 1_000_000


def beats(*seconds: float, sequence: int = 0) -> Bench:
    """Heartbeats of these times, in seconds."""
    bench = connected()
    for second in seconds:
        at = NOW + int(second * SECOND)
        bench.stream.heartbeat(at, sequence, at)
    return bench


def test_a_heartbeat_that_is_missing_makes_it_suspect() -> None:
    assert beats(1, 2, 3.9).counts.gaps == []
    bench = beats(1, 2, 4)
    assert bench.counts.gaps == ["heartbeat"]
    assert statuses(bench.log)[-1] == ("resyncing", "heartbeats 2 s apart", 4 * SECOND)
    bench.snapshot(5 * SECOND)
    # Those of another connection begin anew.
    bench.stream.connected()
    bench.stream.heartbeat(NOW + 60 * SECOND, 0, NOW + 60 * SECOND)
    assert bench.counts.gaps == ["heartbeat"]


def test_a_sequence_that_moves_on_alone_is_said_once_and_a_beat_without_one_is_none() -> None:
    bench = connected()
    for second in range(40):
        at = NOW + second * SECOND
        bench.stream.heartbeat(at, 0, at)
    assert bench.counts.gaps == []
    for second in range(40, 80):
        at = NOW + second * SECOND
        bench.stream.heartbeat(at, 1000 + 100 * second, at)
    assert bench.counts.gaps == ["silent"]
    state, evidence, _ = statuses(bench.log)[-1]
    assert (state, evidence.startswith("no update while the sequence moved by ")) == (
        "resyncing",
        True,
    )


def test_beats_without_a_sequence_hide_no_silence() -> None:
    bench = connected()
    for second in range(80):
        at = NOW + second * SECOND
        bench.stream.heartbeat(at, 1000 + 100 * second if second % 2 else 0, at)
    assert bench.counts.gaps == ["silent"]
    bench = connected()
    for second, sequence in enumerate((0, *[5_000] * 9)):
        at = NOW + second * SECOND
        bench.stream.heartbeat(at, sequence, at)
    assert bench.counts.gaps == [], "nothing moved"


def test_a_fetched_book_without_room_is_awaited_still_and_what_waited_is_let_go() -> None:
    bench = connected()
    bench.stream.distrust("gap", "trades are missing", NOW)
    bench.stream.hold()
    bench.update(2, 3)
    bench.log.away = True
    assert bench.stream.image(BookImage(NOW + 2, 0, b"{}"), NOW + 4)
    assert bench.counts.drops == {"broker_away": 1}
    assert (bench.stream.suspect, bench.stream.based) == (True, False)
    bench.log.away = False
    bench.snapshot(5)
    assert bench.counts.outcomes == ["snapshot"]


MINUTE = 60 * SECOND


def test_a_time_is_believed_up_to_a_minute_ahead() -> None:
    for ahead, seq in ((MINUTE, MINUTE), (MINUTE + 1, 2)):
        bench = connected()
        bench.stream.update(NOW + ahead, b"{}", NOW)
        # One that is not believed stands behind what came before it.
        assert bench.written[-1] == ("frame", seq)


def test_two_messages_of_two_kinds_or_times_confirm_a_time_far_ahead() -> None:
    far = NOW + 2 * MINUTE
    bench = connected()
    bench.stream.update(far, b'{"a":1}', NOW)
    bench.stream.update(far, b'{"a":1}', NOW)
    assert bench.stream.update_time == NOW + 1, "the same message twice is one witness"
    for confirm in ("snapshot", "heartbeat", "image"):
        bench = connected()
        bench.stream.update(far, b'{"a":1}', NOW)
        if confirm == "snapshot":
            bench.stream.snapshot(far, b"{}", NOW)
        elif confirm == "heartbeat":
            bench.stream.heartbeat(far, 0, NOW)
            assert bench.stream.venue_time == far
            bench.stream.update(far, b'{"a":2}', NOW)
        else:
            bench.stream.distrust("audit", "differs", NOW)
            bench.stream.hold()
            assert bench.stream.image(BookImage(far, 0, b"{}"), NOW)
        assert bench.stream.update_time == far


def test_so_many_updates_wait_for_a_fetched_book_and_one_more_lets_go_of_all() -> None:
    bench = connected()
    bench.stream.distrust("gap", "trades are missing", NOW)
    bench.stream.hold()
    bench.update(*range(2, 5_002))
    assert (bench.stream.held, bench.counts.drops["queue_full"]) == (5_000, 0)
    bench.update(5_002)
    assert (bench.stream.held, bench.counts.drops["queue_full"]) == (0, 5_000)
    assert bench.stream.extra()["based"] is False
    bench.update(5_003)
    assert bench.stream.unbased == 2
    # What is fetched has to be newer than what was let go.
    bench.stream.hold()
    assert not bench.stream.image(BookImage(NOW + 5_002, 0, b"{}"), NOW)
    assert bench.stream.image(BookImage(NOW + 5_003, 0, b"{}"), NOW)


def test_updates_without_a_time_follow_a_fetched_book_and_older_ones_do_not() -> None:
    bench = connected()
    bench.stream.distrust("gap", "trades are missing", NOW)
    bench.stream.hold()
    bench.stream.update(0, b'{"a":1}', NOW + 2)
    bench.update(3, 4)
    assert bench.stream.image(BookImage(NOW + 4, 0, b"{}"), NOW + 5)
    assert bench.written[1:] == [("resync", 4), ("frame", 5), ("frame", 6)]


def test_a_lost_connection_forgets_what_was_let_go() -> None:
    bench = Bench()
    bench.update(9)
    bench.stream.lost(NOW + 9)
    bench.stream.hold()
    assert bench.stream.image(BookImage(NOW + 1, 0, b"{}"), NOW + 10)
    assert bench.written == [("resync", 1)]


def test_how_long_it_was_without_a_base_is_told() -> None:
    took: list[tuple[str, float]] = []

    class _Timed(Counts):
        def resynced(self, _key: StreamKey, outcome: str, seconds: float, /) -> None:
            took.append((outcome, seconds))

    log = RawLog()
    writer = RawStreamWriter(BOOK, "test", log.offer, epoch=1)
    stream = BookStream(
        writer,
        StreamStateTracker(writer, NOW),
        Sequencer(Numbering.BY_TIME),
        lambda: None,
        _Timed(),
    )
    stream.snapshot(NOW, b"{}", NOW)
    stream.lost(NOW + SECOND)
    stream.snapshot(NOW + 3 * SECOND, b"{}", NOW + 3 * SECOND)
    stream.unbase("record_refused", "an update is not in the log", NOW + 4 * SECOND)
    stream.snapshot(NOW + 9 * SECOND, b"{}", NOW + 9 * SECOND)
    log.away = True
    stream.update(NOW + 10 * SECOND, b"{}", NOW + 10 * SECOND)
    log.away = False
    stream.snapshot(NOW + 12 * SECOND, b"{}", NOW + 12 * SECOND)
    assert took == [("snapshot", 2.0), ("snapshot", 5.0), ("snapshot", 2.0)]


def test_without_any_time_the_first_record_stands_at_when_it_was_received() -> None:
    bench = Bench()
    bench.stream.snapshot(0, b"{}", NOW + 5)
    bench.stream.update(0, b"{}", NOW + 9)
    assert bench.written == [("resync", 5), ("frame", 6)]


def test_what_is_passed_on_is_told_to_the_replica() -> None:
    bench = Bench()
    replica = bench.stream.replica = BookReplica()
    book = b'{"bids":[["10","1"]],"asks":[["11","1"]]}'
    bench.stream.snapshot(NOW, book, NOW)
    body = b'{"changes":[["buy","10","0"],["buy","9","2"]]}'
    bench.stream.update(NOW + 1, body, NOW + 1)
    assert replica.pop_updates() == [(True, book), (False, body)]


def test_what_is_known_of_a_book_before_and_after_its_first_base() -> None:
    bench = Bench()
    stream = bench.stream
    assert (stream.verified, stream.update_time, stream.venue_time, stream.held) == (0, 0, 0, 0)
    assert (stream.based, stream.unbased, stream.audited, stream.suspect) == (False, 0, 0, True)
    # No base is awaited over REST, so none is taken.
    assert stream.image(BookImage(NOW, 0, b"{}"), NOW)
    assert bench.written == []
    bench.snapshot(5)
    assert (stream.verified, stream.update_time) == (NOW + 5, NOW + 5)
    stream.audited = NOW + 9
    assert stream.verified == NOW + 9
    # A base that was not waited for took no time.
    bench.snapshot(10)
    assert bench.counts.outcomes == []


def test_before_the_first_base_too_two_messages_that_agree_are_believed() -> None:
    bench = Bench()
    hour = NOW + 60 * MINUTE
    bench.stream.update(hour, b"{}", NOW)
    bench.stream.snapshot(hour + 1, b"{}", NOW + 2)
    assert bench.written == [("resync", 60 * MINUTE + 1)]
    bench = Bench()
    bench.stream.snapshot(hour, b"{}", NOW + 2)
    assert bench.written == [("resync", 2)]


def test_so_many_updates_are_remembered_as_passed_on() -> None:
    for ago, dropped in ((64, {}), (65, {"reordered": 1})):
        bench = connected()
        bench.update(*range(2, 2 + ago))
        bench.update(2)
        assert bench.counts.drops == dropped
        assert bench.stream.duplicates == (0 if dropped else 1)


def test_a_long_silence_is_told_in_seconds() -> None:
    bench = beats(1, 1_000_001)
    assert statuses(bench.log)[-1][1] == "heartbeats 1000000 s apart"
