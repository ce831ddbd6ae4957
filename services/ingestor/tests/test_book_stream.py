from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from services.common.subjects import StreamKey
from services.ingestor.integrity.book_replica import BookReplica
from services.ingestor.integrity.sequencer import Numbering, Sequencer
from services.ingestor.streams import BookStream
from services.ingestor.streams.raw_writer import RawStreamWriter
from services.ingestor.streams.stream_state import StreamStateTracker
from services.ingestor.testing import Counts, RawLog
from services.ingestor.venues.base import BookImage

KEY = StreamKey("coinbase", "book", "BTC-USD")
NOW = 1_790_000_000_000_000


class Bench:
    def __init__(self, held: int | None = None) -> None:
        self.log = RawLog()
        self.counts = Counts()
        self.asked = 0
        writer = RawStreamWriter(KEY, "test", self.log.offer, epoch=1, seq=held)
        self.stream = BookStream(
            writer,
            StreamStateTracker(writer, NOW),
            Sequencer(Numbering.BY_TIME),
            self._ask,
            self.counts,
        )

    def _ask(self) -> None:
        self.asked += 1

    def update(self, *times: int) -> None:
        for time in times:
            self.stream.update(NOW + time, b'{"t":%d}' % time, NOW + time)

    def snapshot(self, time: int) -> None:
        self.stream.snapshot(NOW + time, b'{"snapshot":%d}' % time, NOW + time)

    @property
    def written(self) -> list[tuple[str, int]]:
        return [(record.kind, record.seq - NOW) for record in self.log.of("frame", "resync", "gap")]


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


# ---------------------------------------------------------------------- what is counted and said


def connected() -> Bench:
    """One whose stream is live, so that what ails it is its state."""
    bench = Bench()
    bench.stream.state.clear("down", "joined", NOW)
    bench.snapshot(1)
    return bench


def statuses(bench: Bench) -> list[tuple[str, str, int]]:
    """State, evidence and time of each that was written."""
    found = []
    for record in bench.log.of("status"):
        body = json.loads(bytes(record.body))
        found.append((body["state"], body["evidence"], record.ts_recv - NOW))
    return found


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
    assert statuses(bench)[-1] == ("resyncing", "an update older than the one before it", 4)
    bench.snapshot(6)
    assert statuses(bench)[-1] == ("live", "new snapshot (reordered)", 6)


def test_lost_trades_make_it_suspect_and_that_is_said() -> None:
    bench = connected()
    bench.stream.trades_missing(NOW + 2)
    assert bench.counts.gaps == ["gap"]
    assert statuses(bench)[-1] == ("resyncing", "trades of this product are missing", 2)


def test_what_it_is_unbased_for_is_said() -> None:
    bench = connected()
    bench.stream.unbase("record_refused", "an update is not in the log", NOW + 2)
    assert (bench.stream.based, bench.asked) == (False, 1)
    assert statuses(bench)[-1] == ("resyncing", "an update is not in the log", 2)


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
    assert statuses(bench)[-1] == ("resyncing", "heartbeats 2 s apart", 4 * SECOND)
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
    state, evidence, _ = statuses(bench)[-1]
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
    writer = RawStreamWriter(KEY, "test", log.offer, epoch=1)
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
