"""One stream: in what order it takes records, and when its book may be trusted."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.domain.book import BadLevel
from services.common.domain.fold import Fold
from services.common.stores.index import Head
from services.common.stream import Message, Position
from services.common.subjects import StreamKey
from services.common.testing.tick_records import EPOCH, TickStream
from services.common.wire import Fields, Reset, Tick, decode_record
from services.snapshotter.stream import DeliveryVerdict, Stream, View

BOOK = StreamKey("coinbase", "book", "BTC-USD")
TRADES = StreamKey("coinbase", "trades", "BTC-USD")


class Delivery(Message):
    __slots__ = ("_position", "cursor", "payload", "subject")

    def __init__(self, position: Position) -> None:
        self.subject = "market.tick.0.coinbase.trades.BTC-USD"
        self.payload = b"x" * 10
        self.cursor = str(position.seq)
        self._position = position

    @property
    def position(self) -> Position:
        return self._position

    @property
    def headers(self) -> dict[str, str]:
        return {}


def stream_at(position: Position, *, view: View | None = None) -> Stream:
    return Stream(BOOK, "subject", 0, view, Head(position, "c"))


def records(key: StreamKey, count: int) -> list[Tick | Reset]:
    made = TickStream(key)
    return [decode_record(made.tick().payload) for _ in range(count)]


@pytest.mark.parametrize(
    ("position", "prev", "prev_sub", "verdict"),
    [
        (Position(1, 10), 9, 0, DeliveryVerdict.HELD),
        (Position(1, 10, 1), None, None, DeliveryVerdict.HELD),
        (Position(1, 10, 2), None, None, DeliveryVerdict.NEXT),
        (Position(1, 10, 3), None, None, DeliveryVerdict.UNPROVEN),
        (Position(1, 14), 10, 1, DeliveryVerdict.NEXT),
        (Position(1, 14), 10, 2, DeliveryVerdict.UNPROVEN),
        (Position(1, 14), 10, 0, DeliveryVerdict.UNPROVEN),
        (Position(1, 14), 10, None, DeliveryVerdict.UNPROVEN),
        (Position(1, 14), 12, 1, DeliveryVerdict.UNPROVEN),
        (Position(1, 14), None, 1, DeliveryVerdict.UNPROVEN),
        (Position(1, 14, 1), None, None, DeliveryVerdict.UNPROVEN),
        (Position(2, 14), 10, 1, DeliveryVerdict.UNPROVEN),
        (Position(0, 99), 98, 0, DeliveryVerdict.HELD),
    ],
)
def test_a_record_is_next_only_when_that_is_proven(
    position: Position, prev: int | None, prev_sub: int | None, verdict: DeliveryVerdict
) -> None:
    assert stream_at(Position(1, 10, 1)).judge(position, prev, prev_sub) is verdict


def test_the_first_record_ever_is_unproven() -> None:
    stream = Stream(BOOK, "subject", 0, None, None)
    assert stream.judge(Position(1, 1), None, None) is DeliveryVerdict.UNPROVEN


def test_reading_starts_where_archive_and_state_both_have_everything_before() -> None:
    def view_at(seq: int | None) -> View:
        view = View(TRADES)
        if seq is not None:
            view.load(Position(1, seq), f"view{seq}", b'{"trades":[]}')
        return view

    def start(archived: int | None, folded: int | None) -> tuple[Position | None, str]:
        head = Head(Position(1, archived), f"head{archived}") if archived is not None else None
        stream = Stream(TRADES, "subject", 0, view_at(folded), head)
        return stream.held, stream.cursor

    assert start(5, 9) == (Position(1, 5), "head5")
    assert start(9, 5) == (Position(1, 5), "view5")
    assert start(None, 5) == (None, "")
    assert start(5, None) == (None, "")


@given(st.data())
def test_deliveries_are_acked_only_when_archived_and_written(data: st.DataObject) -> None:
    made = records(TRADES, 12)
    view = View(TRADES)
    stream = Stream(TRADES, "subject", 0, view, None)
    taken = 0
    acked: list[Position] = []
    for _ in range(data.draw(st.integers(1, 40))):
        match data.draw(st.sampled_from(["take", "archive", "write", "redeliver"])):
            case "take" if taken < len(made):
                record = made[taken]
                position = Position(record.epoch, record.seq)
                stream.advance(position, "c")
                view.apply(record, "c")
                stream.deliver(Delivery(position))
                taken += 1
            case "archive" if taken:
                at = made[data.draw(st.integers(0, taken - 1))]
                stream.archived = max(stream.archived or Position(0, 0), Position(at.epoch, at.seq))
            case "write":
                row = view.row(0, 0)
                if row is not None:
                    view.written(row.position)
            case "redeliver" if taken:
                at = made[data.draw(st.integers(0, taken - 1))]
                position = Position(at.epoch, at.seq)
                if not stream.settled(position):
                    stream.deliver(Delivery(position))
            case _:
                pass
        for message in stream.pop_settled():
            assert stream.archived is not None
            assert message.position <= stream.archived
            assert view.stored is not None
            assert message.position <= view.stored
            acked.append(message.position)
    assert len(acked) == len(set(acked))
    if taken:
        stream.archived = Position(made[taken - 1].epoch, made[taken - 1].seq)
        view.written(stream.archived)
        acked.extend(message.position for message in stream.pop_settled())
    assert sorted(acked) == [Position(record.epoch, record.seq) for record in made[:taken]]


@given(st.sets(st.integers(0, 29)), st.sets(st.integers(1, 29), max_size=3))
def test_a_book_that_is_whole_equals_the_book_of_all_records(
    missing: set[int], resets: set[int]
) -> None:
    made = TickStream(BOOK)
    for n in range(30):
        if n in resets:
            made.reset(levels=5)
        else:
            made.tick()
    reference, view = Fold(BOOK), View(BOOK)
    for n, record in enumerate(made.records):
        decoded = decode_record(record.payload)
        assert isinstance(decoded, Tick | Reset)
        reference.apply(decoded)
        if n not in missing:
            view.apply(decoded, "c")
            if view.whole:
                assert view.fold.book == reference.book
            assert not isinstance(decoded, Reset) or view.whole
    if not missing:
        assert view.whole


def test_a_reset_without_state_leaves_the_last_whole_row_in_place() -> None:
    made = TickStream(BOOK)
    view = View(BOOK)
    for record in (made.tick(), made.tick()):
        decoded = decode_record(record.payload)
        assert isinstance(decoded, Tick | Reset)
        view.apply(decoded, "c")
    assert view.row(0, 0) is not None
    lost = decode_record(made.reset(whole=False).payload)
    assert isinstance(lost, Reset)
    view.apply(lost, "c")
    assert view.row(0, 0) is None
    assert view.covers(Position(lost.epoch, lost.seq))
    assert view.changed_book(0, 0) is None


def test_a_malformed_change_makes_the_book_wait_for_its_next_reset() -> None:
    made = TickStream(BOOK)
    view = View(BOOK)
    first = decode_record(made.tick().payload)
    second = decode_record(made.tick().payload)
    assert isinstance(first, Reset)
    assert isinstance(second, Tick)
    view.apply(first, "c")
    bad = msgspec.structs.replace(second, fields=Fields(changes=[("buy", "x", "1")]))
    with pytest.raises(BadLevel):
        view.apply(bad, "c")
    assert view.changed_book(0, 0) is None
    reset = decode_record(made.reset().payload)
    assert isinstance(reset, Reset)
    view.apply(reset, "c")
    assert view.whole
    assert view.pop_reset()
    assert not view.pop_reset()


def test_a_ticker_goes_on_over_a_hole() -> None:
    made = records(StreamKey("coinbase", "ticker", "BTC-USD"), 3)
    view = View(StreamKey("coinbase", "ticker", "BTC-USD"))
    view.apply(made[0], "a")
    view.apply(made[2], "b")
    row = view.row(4, 7)
    assert row is not None
    assert (row.position, row.cursor, row.shard) == (Position(EPOCH, made[2].seq), "b", 4)
