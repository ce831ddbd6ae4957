"""What a client that catches up is given, and which records link to what it holds."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.stream import Position
from services.common.wire import Fields, Missed
from services.gateway.chain.stream_record import StreamRecord
from services.gateway.chain.window import Run
from services.gateway.fanout.subscription import BEGINNING, CHUNK, Catching, View
from services.gateway.testing import EPOCH, Market
from services.gateway.websocket.rfc6455.frames import payloads_of, text_frames

_HELD = Position(EPOCH, 107)
ALL = View()


def _ticks(market: Market, count: int, size: int = 1) -> list[StreamRecord]:
    return [StreamRecord(market.tick(Fields(volume_30d="1" * size)).payload) for _ in range(count)]


def _sent(entries: Sequence[StreamRecord], view: View = ALL) -> list[bytes]:
    return [message for entry in entries for message in entry.messages(*view)]


def test_it_begins_with_nothing_read_and_nothing_handed_out() -> None:
    catching = Catching("snapshot", _HELD, 107, 3.0, deque([b"first", b"second"]))
    assert list(catching.preface) == [b"first", b"second"]
    assert (catching.count, catching.since, catching.cursor) == (0, 3.0, "")
    assert catching.page == deque()
    assert not catching.reading
    assert Catching("backfill", _HELD, None).asked == 0
    assert Catching("backfill", _HELD, None).since == 0.0


def test_a_page_that_brought_nothing_has_its_place_looked_for_again() -> None:
    catching = Catching("slow", _HELD, 107)
    page = deque(_ticks(Market(None), 2))
    catching.set_page(page, "here")
    assert (catching.page, catching.cursor) == (page, "here")
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
