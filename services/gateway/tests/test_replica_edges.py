"""The rules of a replica one at a time, at their edges; `test_replica.py` has them all together."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from services.common.domain.fold import Fold
from services.common.stream import Position, Record
from services.common.wire import Fields, Reset, Tick, decode_record
from services.gateway.chain.replica import Phase, Replica, WantBase, WantPage
from services.gateway.chain.stream_record import StreamRecord
from services.gateway.chain.window import Budget, Window
from services.gateway.testing import EPOCH, Market


class Stream:
    """A market's records as entries, and a replica of them."""

    def __init__(self, channel: str = "ticker", max_held: int = 30) -> None:
        self.market = Market(None, channel=channel)
        self.market.clock = lambda: 7
        self.replica = Replica(self.market.key, Window(Budget(10**9), 10**9), max_held=max_held)

    def ticks(self, count: int) -> list[StreamRecord]:
        return [entry(self.market.tick()) for _ in range(count)]

    def status(self) -> StreamRecord:
        return entry(self.market.status())

    def live(self, entries: Sequence[StreamRecord] = ()) -> None:
        """Begin with the log's oldest, which is `entries`, and go live."""
        self.replica.on_base(None)
        assert self.replica.on_page(entries, "", at_head=True)
        self.replica.drain()
        assert self.replica.want() is None


def entry(record: Record) -> StreamRecord:
    return StreamRecord(record.payload)


def unreadable(record: Record) -> StreamRecord:
    body = {**msgspec.json.decode(record.payload), "type": "unknown"}
    return StreamRecord(msgspec.json.encode(body))


def known(stream: Stream) -> tuple[Position | None, Position | None, StreamRecord | None]:
    replica = stream.replica
    return replica.head, replica.mark, replica.status


def folded(stream: Stream, entries: Sequence[StreamRecord]) -> bytes:
    fold = Fold(stream.market.key)
    for each in entries:
        record = decode_record(each.payload)
        assert isinstance(record, Tick | Reset)
        fold.apply(record)
    return fold.state()


# ---------------------------------------------------------------------- beginning


def test_it_begins_with_nothing_and_wants_a_state() -> None:
    replica = Stream().replica
    assert replica.want() == WantBase()
    assert (replica.head, replica.mark, replica.status) == (None, None, None)
    assert (replica.whole, replica.generation, replica.last_ingest) == (False, 0, 0)
    assert replica.drain() == []
    assert not replica.stateful
    assert replica.state() is None


def test_without_a_state_the_log_is_read_from_its_oldest() -> None:
    replica = Stream().replica
    replica.on_base(None, "left aside")
    assert replica.want() == WantPage("", None)
    replica.on_base(Position(EPOCH, 5), "late", b"{}")
    assert replica.want() == WantPage("", None), "it began already"


def test_with_a_state_the_log_is_read_behind_it() -> None:
    stream = Stream()
    first = stream.ticks(3)
    state = folded(stream, first)
    held = first[-1].position
    stream.replica.on_base(Position(held.epoch, held.seq, 4), "cursor", state)
    assert stream.replica.head == stream.replica.mark == held
    assert stream.replica.want() == WantPage("cursor", held)
    assert stream.replica.whole
    assert stream.replica.state() == (held, state)
    assert stream.replica.window.covers(held)
    more = stream.ticks(1)
    assert stream.replica.on_page([*first, *more], "", at_head=True)
    assert stream.replica.drain() == more
    assert stream.replica.state() == (more[0].position, folded(stream, [*first, *more]))
    assert list(stream.replica.window) == more


@pytest.mark.parametrize("state", [b"{", b'{"bids":[["1","x"]],"asks":[]}'])
def test_a_state_that_cannot_be_read_is_none(state: bytes) -> None:
    stream = Stream("book")
    stream.replica.on_base(Position(EPOCH, 5), "cursor", state)
    assert stream.replica.want() == WantPage("", None)
    assert (stream.replica.head, stream.replica.whole) == (None, False)
    first = stream.ticks(1)
    assert stream.replica.on_page(first, "", at_head=True)
    assert stream.replica.state() == (first[0].position, folded(stream, first))


# ---------------------------------------------------------------------- pages


def test_a_page_that_brings_nothing_says_so_unless_it_reaches_the_head() -> None:
    stream = Stream()
    one, two = stream.ticks(2)
    stream.replica.on_base(None)
    assert not stream.replica.on_page([], "a", at_head=False)
    assert stream.replica.want() == WantPage("a", None)
    assert stream.replica.on_page([one], "b", at_head=False)
    assert stream.replica.want() == WantPage("b", one.position)
    assert not stream.replica.on_page([one], "c", at_head=False)
    assert stream.replica.on_page([one, two], "d", at_head=False)
    assert stream.replica.on_page([], "e", at_head=True)
    assert stream.replica.drain() == [one, two]
    assert stream.replica.drain() == []


def test_a_page_that_was_not_wanted_is_left_aside() -> None:
    stream = Stream()
    entries = stream.ticks(3)
    assert stream.replica.on_page(entries, "a", at_head=True)
    assert stream.replica.want() == WantBase()
    stream.live(entries[:1])
    assert stream.replica.on_page(entries, "a", at_head=True)
    assert stream.replica.drain() == []


def test_a_hole_in_a_page_begins_behind_it_where_no_state_helps() -> None:
    stream = Stream()
    stream.replica.on_base(None)
    one, two, _, four, five = stream.ticks(5)
    assert stream.replica.on_page([one, two, four, five], "c", at_head=False)
    assert stream.replica.generation == 1
    assert stream.replica.drain() == [four, five]
    assert stream.replica.want() == WantPage("c", five.position)
    assert stream.replica.state() == (five.position, folded(stream, [four, five]))
    assert list(stream.replica.window) == [four, five]


def test_a_hole_in_a_page_has_a_state_looked_for_where_it_was_live_before() -> None:
    stream = Stream()
    one, _, three, four = stream.ticks(4)
    stream.live([one])
    stream.replica.on_interrupted()
    assert stream.replica.on_page([three, four], "c", at_head=True)
    assert stream.replica.want() == WantBase()
    assert (stream.replica.generation, stream.replica.drain()) == (1, [])
    # It does not help: the next hole is taken as it is.
    stream.replica.on_base(None)
    assert stream.replica.mark is None
    six = stream.ticks(2)[1]
    stream.replica.on_page([three, six], "", at_head=True)
    assert stream.replica.generation == 2
    assert stream.replica.drain() == [six]


def test_behind_a_record_that_cannot_be_read_the_chain_begins_anew() -> None:
    stream = Stream("book")
    one, status = stream.ticks(1)[0], stream.status()
    broken = unreadable(stream.market.tick())
    three = stream.ticks(1)[0]
    stream.replica.on_base(None)
    assert stream.replica.on_page([one, status], "", at_head=False)
    assert known(stream) == (one.position, status.position, status)
    stream.replica.on_page([broken], "", at_head=False)
    assert stream.replica.generation == 1
    assert known(stream) == (None, None, None)
    assert not stream.replica.whole
    assert stream.replica.want() == WantPage("", broken.position)
    assert stream.replica.on_page([one, broken, three], "", at_head=True)
    assert (stream.replica.generation, stream.replica.drain()) == (1, [three])
    assert stream.replica.state() is None, "a book from its middle"


# ---------------------------------------------------------------------- the live tail


def test_what_came_live_meanwhile_follows_the_page_that_reaches_the_head() -> None:
    stream = Stream()
    one, two, three, four = stream.ticks(4)
    stream.replica.on_live([one])
    stream.replica.on_base(None)
    stream.replica.on_live([two, three])
    assert stream.replica.drain() == []
    assert stream.replica.on_page([one], "c", at_head=True)
    assert stream.replica.drain() == [one, two, three]
    stream.replica.on_live([two, three, four])
    assert stream.replica.drain() == [four]
    assert stream.replica.head == stream.replica.mark == four.position
    assert stream.replica.last_ingest == 7


def test_a_live_record_that_does_not_follow_waits_until_the_log_was_read() -> None:
    stream = Stream()
    one, two, three, four, five = stream.ticks(5)
    stream.live([one])
    stream.replica.on_live([two, four, five])
    assert stream.replica.drain() == [two]
    assert stream.replica.want() == WantPage("", two.position)
    assert stream.replica.on_page([three], "", at_head=True)
    assert stream.replica.drain() == [three, four, five]
    assert stream.replica.generation == 0


def test_the_first_record_of_an_empty_log_is_read_from_it() -> None:
    stream = Stream()
    stream.live()
    one = stream.ticks(1)
    stream.replica.on_live(one)
    assert stream.replica.drain() == []
    assert stream.replica.want() == WantPage("", None)
    assert stream.replica.on_page(one, "", at_head=True)
    assert stream.replica.drain() == one


@pytest.mark.parametrize(("held", "kept"), [(3, True), (4, False)])
def test_so_many_live_records_wait_and_of_more_none(held: int, kept: bool) -> None:
    stream = Stream(max_held=3)
    one, *rest = stream.ticks(1 + held)
    stream.replica.on_base(None)
    stream.replica.on_live(rest[:2])
    stream.replica.on_live(rest[2:])
    stream.replica.on_page([one], "", at_head=True)
    assert stream.replica.drain() == ([one, *rest] if kept else [one])


def test_statuses_follow_the_record_before_them() -> None:
    stream = Stream()
    one = stream.ticks(1)
    first, lost, third = stream.status(), stream.status(), stream.status()
    stream.live(one)
    stream.replica.on_live([first])
    assert stream.replica.drain() == [first]
    assert (stream.replica.head, stream.replica.mark) == (one[0].position, first.position)
    assert stream.replica.status is first
    stream.replica.on_live([third])
    assert stream.replica.want() == WantPage("", first.position)
    assert stream.replica.on_page([lost], "", at_head=True)
    assert stream.replica.status is third
    late = entry(stream.market.late())
    stream.replica.on_live([late])
    assert (stream.replica.mark, stream.replica.status) == (late.position, third)


def test_an_interrupted_tail_is_read_from_the_log_and_only_when_it_was_live() -> None:
    stream = Stream()
    stream.replica.on_interrupted()
    assert stream.replica.want() == WantBase()
    stream.replica.on_base(None)
    one, two = stream.ticks(2)
    stream.replica.on_page([one], "cursor", at_head=False)
    stream.replica.on_interrupted()
    assert stream.replica.want() == WantPage("cursor", one.position)
    stream.replica.on_page([two], "cursor", at_head=True)
    stream.replica.on_interrupted()
    assert stream.replica.want() == WantPage("", two.position)
    assert stream.replica.generation == 0


# ---------------------------------------------------------------------- what goes wrong


def test_a_lost_cursor_is_looked_for_by_position_once() -> None:
    stream = Stream()
    stream.replica.on_base(None)
    one = stream.ticks(1)[0]
    stream.replica.on_page([one], "cursor", at_head=False)
    stream.replica.on_lost()
    assert stream.replica.want() == WantPage("", one.position)
    assert (stream.replica.generation, stream.replica.drain()) == (0, [one])
    stream.replica.on_lost()
    assert stream.replica.generation == 1
    assert stream.replica.want() == WantPage("", None)


def test_a_lost_cursor_without_a_position_starts_over() -> None:
    stream = Stream()
    stream.replica.on_base(None)
    stream.replica.on_page([], "cursor", at_head=False)
    stream.replica.on_lost()
    assert (stream.replica.generation, stream.replica.want()) == (1, WantPage("", None))


def test_a_place_is_lost_only_while_one_is_wanted() -> None:
    stream = Stream()
    stream.replica.on_lost()
    stream.live(stream.ticks(1))
    stream.replica.on_lost()
    assert (stream.replica.generation, stream.replica.want()) == (0, None)


def test_after_a_failure_nothing_that_was_held_is_used() -> None:
    stream = Stream()
    one, two, three = stream.ticks(3)
    stream.replica.on_base(None)
    stream.replica.on_live([two])
    stream.replica.on_page([one], "", at_head=False)
    stream.replica.on_failure()
    assert (stream.replica.generation, stream.replica.want()) == (1, WantBase())
    assert stream.replica.drain() == []
    stream.replica.on_base(None)
    stream.replica.on_page([one], "", at_head=True)
    assert stream.replica.drain() == [one], "the one that waited is gone"
    assert stream.replica.state() == (one.position, folded(stream, [one]))
    stream.replica.on_live([two, three])
    assert stream.replica.drain() == [two, three]


def test_an_older_status_is_learned_where_none_is_known() -> None:
    stream = Stream()
    first, second = stream.status(), stream.status()
    assert stream.replica.learn_status(first)
    assert not stream.replica.learn_status(second)
    assert stream.replica.status is first


# ---------------------------------------------------------------------- the state


@pytest.mark.parametrize(
    ("channel", "whole"), [("ticker", True), ("trades", True), ("book", False)]
)
def test_whether_a_stream_from_its_middle_is_whole(channel: str, whole: bool) -> None:
    stream = Stream(channel)
    middle = stream.ticks(3)[1:]
    stream.live(middle)
    assert stream.replica.whole is whole
    assert stream.replica.stateful is whole
    assert (stream.replica.state() is not None) is whole


def test_a_book_is_whole_from_its_first_record_or_a_reset_with_a_snapshot() -> None:
    stream = Stream("book")
    reset = stream.market.reset
    stream.live()
    told: list[bool] = []
    for record in (
        stream.market.tick(),
        stream.market.tick(),
        reset(repair="none"),
        # A tick makes no book whole.
        stream.market.tick(),
        reset({"bids": [["1", "2"], ["3", "4"]], "asks": []}),
    ):
        last = entry(record)
        stream.replica.on_live([last])
        # The first one of an empty log is read from there.
        stream.replica.on_page([last], "", at_head=True)
        told.append(stream.replica.stateful)
    assert told == [True, True, False, False, True]
    assert stream.replica.state() == (last.position, folded(stream, [last]))
    cut = stream.replica.state(1)
    assert cut is not None
    assert msgspec.json.decode(cut[1])["bids"] == [["3", "4"]]


def test_a_level_that_cannot_be_applied_costs_the_state_and_not_the_chain() -> None:
    stream = Stream("book")
    first = stream.ticks(1)
    bad = entry(stream.market.tick(Fields(changes=[("buy", "x", "1")])))
    stream.live(first)
    stream.replica.on_live([bad])
    assert stream.replica.drain() == [bad]
    assert not stream.replica.stateful
    assert stream.replica.state() is None
    assert not stream.replica.whole


def test_far_more_records_than_wait_to_be_folded_give_the_same_state() -> None:
    stream = Stream("book")
    entries = stream.ticks(600)
    stream.live(entries[:300])
    stream.replica.on_live(entries[300:])
    assert stream.replica.phase is Phase.LIVE
    assert stream.replica.state() == (entries[-1].position, folded(stream, entries))
