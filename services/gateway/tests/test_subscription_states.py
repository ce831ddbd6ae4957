"""A subscription's states, what each event does in them; what who catches up is given."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.stream import Position
from services.common.wire import Fields, Missed
from services.gateway.chain.stream_record import StreamRecord
from services.gateway.chain.window import Run
from services.gateway.fanout.encoding import encoding_of
from services.gateway.fanout.live_streams import LiveStream, Subscriber, SubscriptionListener
from services.gateway.fanout.outbox import Outbox
from services.gateway.fanout.subscription import (
    BEGINNING,
    CHUNK,
    Catching,
    State,
    Subscription,
    Terms,
    View,
    WrongState,
)
from services.gateway.metrics import Metrics
from services.gateway.testing import EPOCH, Market
from services.gateway.websocket.rfc6455.frames import payloads_of, text_frames

# ---------------------------------------------------------------------- each event in each state

_HELD = Position(EPOCH, 107)
_EVENTS: dict[str, Callable[[Subscription], object]] = {
    "go_live": lambda one: one.go_live(),
    "merge": lambda one: one.merge(_HELD, None),
    "fall_behind": lambda one: one.fall_behind(_HELD, 0.0),
    "catch_up": lambda one: one.catch_up(Catching("backfill", _HELD, 107)),
    "rest": lambda one: one.rest(),
    "end": lambda one: one.end(),
    "configure": lambda one: one.configure(Terms("latest")),
}
_TO: dict[State, dict[str, State]] = {
    State.IDLE: {
        "go_live": State.LIVE,
        "merge": State.MERGED,
        "catch_up": State.CATCHING_UP,
        "rest": State.IDLE,
        "end": State.ENDED,
        "configure": State.IDLE,
    },
    State.LIVE: {
        "merge": State.MERGED,
        "fall_behind": State.CATCHING_UP,
        "rest": State.IDLE,
        "end": State.ENDED,
    },
    State.MERGED: {
        "go_live": State.LIVE,
        "fall_behind": State.CATCHING_UP,
        "rest": State.IDLE,
        "end": State.ENDED,
    },
    State.CATCHING_UP: {
        "go_live": State.LIVE,
        "merge": State.MERGED,
        "catch_up": State.CATCHING_UP,
        "rest": State.IDLE,
        "end": State.ENDED,
        "configure": State.CATCHING_UP,
    },
    State.ENDED: {"end": State.ENDED, "configure": State.ENDED},
}
_WAY: dict[State, list[str]] = {
    State.IDLE: [],
    State.LIVE: ["go_live"],
    State.MERGED: ["merge"],
    State.CATCHING_UP: ["catch_up"],
    State.ENDED: ["end"],
}

_METRICS = Metrics()


class _Client(Subscriber, SubscriptionListener):
    """The states change nothing about it."""

    writable = True

    def __init__(self) -> None:
        super().__init__(Outbox(1), encoding_of(arrays=False, deflated=False), -1)
        self.subscriptions = self

    def unsent(self, frames: bytes, sent: int) -> None: ...

    def flush(self) -> None: ...

    def fell_behind(self, subscription: Subscription, records: int) -> None: ...

    def rebased(self, subscription: Subscription) -> None: ...

    def over_quota(self, subscription: Subscription) -> None: ...

    def within_quota(self, subscription: Subscription) -> None: ...

    def failed(self) -> None: ...


def _live_stream() -> LiveStream:
    key = Market(None).key
    return LiveStream(key, _METRICS.of_stream(key))


@pytest.fixture
def subscription() -> Subscription:
    return Subscription(_Client(), _live_stream())


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("event", _EVENTS)
def test_what_each_event_does_in_each_state(
    subscription: Subscription, state: State, event: str
) -> None:
    for step in _WAY[state]:
        _EVENTS[step](subscription)
    assert subscription.state is state
    version = subscription.version
    to = _TO[state].get(event)
    if to is None:
        with pytest.raises(WrongState, match=f"^{event} while {state.name}$"):
            _EVENTS[event](subscription)
        assert (subscription.state, subscription.version) == (state, version)
        return
    _EVENTS[event](subscription)
    assert subscription.state is to
    unchanged = event == "configure" or (to is state and event in ("rest", "end"))
    assert (subscription.version == version) is unchanged
    assert (subscription.conflation is not None) == (to is State.MERGED)
    assert (subscription.catching is not None) == (to is State.CATCHING_UP)
    assert subscription.live == (to in (State.LIVE, State.MERGED))


def test_who_is_merged_falls_behind_from_what_it_was_sent_and_not_from_what_it_is_owed(
    subscription: Subscription,
) -> None:
    market = Market(None)
    entries = [StreamRecord(market.tick().payload) for _ in range(4)]
    subscription.merge(entries[0].position, None)
    assert subscription.conflation is not None
    for entry in entries[1:]:
        subscription.conflation.add(entry)
    catching = subscription.fall_behind(entries[-1].position, 5.0)
    assert (catching.position, catching.seq) == (entries[0].position, entries[0].position.seq)
    subscription.rest()
    subscription.merge(None, None)
    catching = subscription.fall_behind(entries[-1].position, 5.0)
    assert (catching.position, catching.seq) == (BEGINNING, None)


def test_a_status_links_to_what_it_was_written_after_and_to_nothing_before() -> None:
    market = Market(None)
    first = StreamRecord(market.tick().payload)
    early = StreamRecord(market.status().payload)
    second = StreamRecord(market.tick().payload)
    late = StreamRecord(market.status().payload)
    catching = Catching("slow", first.position, first.position.seq)
    assert catching.links(early)
    # Between what is held and this one a tick is missing.
    assert not catching.links(late)
    assert catching.linked([early, late]) == [early]
    assert catching.linked([early, second, late]) == [early, second, late]
    market.epoch += 1
    assert catching.links(StreamRecord(market.status().payload))


def test_how_a_stream_is_sent_is_what_was_asked_for_or_all_of_it(
    subscription: Subscription,
) -> None:
    assert subscription.terms == Terms("full", None, View(0, False), "snapshot")
    assert subscription.quota is None
    subscription.configure(Terms("latest", 5.0))
    assert subscription.terms == Terms("latest", 5.0)
    live_stream = _live_stream()
    own = Subscription(subscription.client, live_stream, Terms("latest"))
    assert own.terms == Terms("latest")
    assert own.client is subscription.client
    assert own.outbox is subscription.client.outbox
    assert own.live_stream is live_stream


def test_what_is_merged_obeys_the_rate_and_begins_behind_what_is_held(
    subscription: Subscription,
) -> None:
    subscription.merge(_HELD, 2.0)
    conflation = subscription.conflation
    assert conflation is not None
    assert (conflation.held, conflation.due) == (_HELD, 0.5)


def test_each_change_of_state_is_another_version(subscription: Subscription) -> None:
    seen = {subscription.version}
    for event in ("go_live", "fall_behind", "catch_up", "rest", "merge", "end"):
        _EVENTS[event](subscription)
        seen.add(subscription.version)
    assert len(seen) == 7
    assert max(seen) - min(seen) == 6


def test_who_falls_behind_begins_where_it_was_left_at_that_time(
    subscription: Subscription,
) -> None:
    subscription.go_live()
    catching = subscription.fall_behind(_HELD, 5.0)
    assert subscription.catching is catching
    assert (catching.reason, catching.position, catching.seq) == ("slow", _HELD, 107)
    assert (catching.since, catching.start, catching.count) == (5.0, 107, 0)
    subscription.go_live()
    # It was given everything, and there was nothing.
    assert subscription.fall_behind(BEGINNING, 0.0).seq is None
    own = Catching("backfill", _HELD, 107)
    subscription.catch_up(own)
    assert subscription.catching is own


# ---------------------------------------------------------------------- catching up


ALL = View()


def _ticks(market: Market, count: int, size: int = 1) -> list[StreamRecord]:
    return [StreamRecord(market.tick(Fields(volume_30d="1" * size)).payload) for _ in range(count)]


def _sent(entries: Sequence[StreamRecord], view: View = ALL) -> list[bytes]:
    return [message for entry in entries for message in entry.messages(*view)]


def test_it_begins_with_nothing_read_and_nothing_handed_out() -> None:
    catching = Catching("snapshot", _HELD, 107, 3.0, [b"first", b"second"])
    assert list(catching.preface) == [b"first", b"second"]
    assert (catching.count, catching.since, catching.cursor) == (0, 3.0, "")
    assert catching.page == deque()
    assert not catching.reading
    assert Catching("backfill", _HELD, None).start == 0
    assert Catching("backfill", _HELD, None).since == 0.0


def test_a_page_that_brought_nothing_has_its_place_looked_for_again() -> None:
    catching = Catching("slow", _HELD, 107)
    page = deque(_ticks(Market(None), 2))
    catching.set_page(page, "here")
    assert (catching.page, catching.cursor) == (page, "here")
    catching.lost_cursor()
    assert (catching.page, catching.cursor) == (page, "")
    catching.set_page(page, "here")
    catching.set_page(deque(), "there")
    assert (len(catching.page), catching.cursor) == (0, "")


def test_a_tick_links_to_the_very_record_before_it() -> None:
    market = Market(None)
    first, second, third = _ticks(market, 3)
    catching = Catching("slow", first.position, first.position.seq)
    assert catching.links(second)
    assert not catching.links(third)
    assert not catching.links(first)
    # Who holds nothing may begin with any.
    for entry in (first, second, third):
        assert Catching("slow", BEGINNING, None).links(entry)


def test_no_record_that_cannot_be_read_links() -> None:
    market = Market(None)
    (first,) = _ticks(market, 1)
    odd = StreamRecord(market.tick().payload.replace(b'"tick"', b'"novel"'))
    assert odd.unreadable
    assert not Catching("slow", first.position, first.position.seq).links(odd)
    assert not Catching("slow", BEGINNING, None).links(odd)


def test_a_seq_between_two_records_is_taken_as_held_for_a_backfills_first_one_only() -> None:
    market = Market(None)
    first, second, third = _ticks(market, 3)
    low, high = first.position.seq, second.position.seq
    for seq in range(low, high):
        assert Catching("backfill", first.position, seq).links(second)
        assert Catching("slow", first.position, seq).links(second) is (seq == low)
    for seq in (low - 1, high, high + 1):
        assert not Catching("backfill", first.position, seq).links(second)
    # Before the first record of all there was 0.
    assert Catching("backfill", BEGINNING, 0).links(first)
    begun = Catching("backfill", first.position, low)
    begun.give(deque([second]), View())
    begun.seq = high + 1
    assert not begun.links(third)


@given(
    kinds=st.lists(st.sampled_from(["tick", "status", "late", "odd", "lost"]), max_size=12),
    held=st.booleans(),
)
def test_what_links_is_what_goes_on_without_a_hole_from_the_first_on(
    kinds: list[str], *, held: bool
) -> None:
    market = Market(None)
    (first,) = _ticks(market, 1)
    entries: list[StreamRecord] = []
    # An independent model: everything up to the first hole or unreadable record, of which it is
    # known that it comes behind something.
    good = 0
    broken = False
    anchored = held
    for kind in kinds:
        if kind == "lost":
            market.tick()
            broken = broken or anchored
            continue
        if kind == "status":
            payload = market.status().payload
        elif kind == "late":
            payload = market.late().payload
        elif kind == "odd":
            payload = market.tick().payload.replace(b'"tick"', b'"novel"')
            broken = True
        else:
            payload = market.tick().payload
        anchored = anchored or kind == "tick"
        entries.append(StreamRecord(payload))
        good += not broken
    catching = (
        Catching("slow", first.position, first.position.seq)
        if held
        else Catching("slow", BEGINNING, None)
    )
    assert catching.linked(entries) == entries[:good]


@pytest.mark.parametrize("size", [1, 40_000])
def test_records_are_handed_out_in_pieces_of_a_bounded_size(size: int) -> None:
    market = Market(None)
    entries = _ticks(market, 600 if size == 1 else 7, size)
    rest = deque(entries)
    catching = Catching("backfill", BEGINNING, None)
    sent: list[bytes] = []
    while rest:
        before = len(rest)
        piece = catching.give(rest, View())
        assert piece.whole
        assert piece.records == before - len(rest)
        messages = list(payloads_of(piece.frames))
        # No more than what fills the piece, and the record that did.
        assert sum(map(len, messages[:-1])) < CHUNK
        assert not rest or sum(map(len, messages)) >= CHUNK
        sent += messages
        assert catching.count == len(sent)
        assert catching.position == entries[len(sent) - 1].position
        assert catching.seq == catching.position.seq
    assert sent == _sent(entries)


def test_what_is_not_in_the_chain_is_handed_out_and_moves_the_place_only() -> None:
    market = Market(None)
    first, second = _ticks(market, 2)
    status = StreamRecord(market.status().payload)
    late = StreamRecord(market.late(Missed(1, 2, 1)).payload)
    for view in (View(), View(late=True)):
        catching = Catching("slow", first.position, first.position.seq)
        piece = catching.give(deque([second, status, late]), view)
        assert list(payloads_of(piece.frames)) == _sent([second, status, late], view)
        assert (piece.records, catching.count) == (1, 1)
        assert (catching.position, catching.seq) == (late.position, second.position.seq)


def test_a_piece_is_full_with_its_very_last_byte() -> None:
    market = Market(None)
    market.clock = lambda: 1
    _first, second = _ticks(market, 2)
    size = 1 + CHUNK // 2 - len(_sent([second])[0])
    rest = deque(_ticks(market, 3, size))
    piece = Catching("backfill", BEGINNING, None).give(rest, View())
    assert sum(map(len, payloads_of(piece.frames))) == CHUNK
    assert (piece.records, len(rest)) == (2, 1)


def test_of_nothing_nothing_is_missing() -> None:
    piece = Catching("slow", _HELD, 107).give(deque(), View())
    assert (piece.frames, piece.records, piece.whole) == (b"", 0, True)


def test_handing_out_stops_before_a_hole() -> None:
    market = Market(None)
    first, second, _lost, third = _ticks(market, 4)
    catching = Catching("slow", first.position, first.position.seq)
    piece = catching.give(deque([second, third]), View())
    assert not piece.whole
    assert list(payloads_of(piece.frames)) == _sent([second])
    assert (piece.records, catching.position) == (1, second.position)


@pytest.mark.parametrize("sealed", [True, False])
def test_a_run_of_a_window_is_handed_out_whole(sealed: bool) -> None:
    market = Market(None)
    first, *entries = _ticks(market, 3)
    entries.append(StreamRecord(market.status().payload))
    frames = text_frames(_sent(entries)) if sealed else None
    catching = Catching("slow", first.position, first.position.seq)
    catching.cursor = "a place in the log"
    piece = catching.give_run(Run(entries, 2, frames), View())
    assert list(payloads_of(piece.frames)) == _sent(entries)
    assert (piece.records, piece.whole, catching.count) == (2, True, 2)
    assert catching.position == entries[-1].position
    assert catching.seq == entries[1].position.seq
    # The log is read from here on, should the window end.
    assert catching.cursor == ""
    more = _ticks(market, 1)
    catching.give_run(Run(more, 1, text_frames(_sent(more))), View())
    assert catching.count == 3


def test_a_run_of_statuses_only_does_not_move_the_chain() -> None:
    market = Market(None)
    (first,) = _ticks(market, 1)
    status = StreamRecord(market.status().payload)
    catching = Catching("slow", first.position, first.position.seq)
    piece = catching.give_run(Run([status], 0, text_frames(_sent([status]))), View())
    assert (piece.records, piece.whole) == (0, True)
    assert (catching.position, catching.seq, catching.count) == (
        status.position,
        first.position.seq,
        0,
    )


def test_a_run_that_does_not_follow_is_not_handed_out() -> None:
    market = Market(None)
    first, _lost, second = _ticks(market, 3)
    catching = Catching("slow", first.position, first.position.seq)
    piece = catching.give_run(Run([second], 1, text_frames(_sent([second]))), View())
    assert (piece.frames, piece.records, piece.whole) == (b"", 0, False)
    assert catching.position == first.position
