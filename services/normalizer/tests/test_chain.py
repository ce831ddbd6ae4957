"""Where a raw record stands to what is held, at the edges that streams rarely reach."""

from __future__ import annotations

import msgspec
import pytest

from services.common.stream import Position
from services.common.subjects import StreamKey
from services.common.wire import RawKind, RawRecord
from services.normalizer.chain import Chain, ChainVerdict, Link, Place

KEY = StreamKey("coinbase", "ticker", "BTC-USD")
TRADES = StreamKey("coinbase", "trades", "BTC-USD")


def raw(
    seq: int,
    sub: int = 0,
    *,
    key: StreamKey = KEY,
    epoch: int = 1,
    kind: RawKind = "frame",
    prev: int | None = None,
    prev_sub: int | None = None,
) -> RawRecord:
    body = msgspec.Raw(b"{}")
    return RawRecord(1, kind, *key, epoch, seq, sub, prev, 1, "test", body, prev_sub)


@pytest.mark.parametrize("held", [(1, 10, 0), (1, 10, 2)])
def test_the_very_record_that_is_held_is_a_duplicate_and_so_is_all_before_it(
    held: tuple[int, int, int],
) -> None:
    chain = Chain()
    chain.restore(KEY, Position(*held))
    epoch, seq, sub = held
    for at in ((seq, sub), (seq, 0), (seq - 1, 9), (1, 0)):
        kind: RawKind = "status" if at[1] else "frame"
        assert chain.judge(KEY, raw(*at, epoch=epoch, kind=kind)) is ChainVerdict.DUPLICATE
    assert chain.judge(KEY, raw(99, epoch=epoch - 1)) is ChainVerdict.DUPLICATE


def test_a_status_follows_only_the_one_before_it() -> None:
    chain = Chain()
    chain.restore(KEY, Position(1, 10, 2))
    assert chain.judge(KEY, raw(10, 3, kind="status")) is ChainVerdict.NEXT
    assert chain.judge(KEY, raw(10, 4, kind="status")) is ChainVerdict.UNPROVEN
    assert chain.judge(KEY, raw(11, 3, kind="status")) is ChainVerdict.UNPROVEN


def test_a_frame_follows_when_it_names_what_is_held_with_all_its_statuses() -> None:
    chain = Chain()
    chain.restore(KEY, Position(1, 10, 2))
    assert chain.judge(KEY, raw(11, prev=10, prev_sub=2)) is ChainVerdict.NEXT
    assert chain.judge(KEY, raw(11, prev=10, prev_sub=1)) is ChainVerdict.UNPROVEN
    assert chain.judge(KEY, raw(11, prev=10, prev_sub=3)) is ChainVerdict.UNPROVEN
    assert chain.judge(KEY, raw(11, prev=9, prev_sub=2)) is ChainVerdict.UNPROVEN
    assert chain.judge(KEY, raw(11, epoch=2, prev=10, prev_sub=2)) is ChainVerdict.UNPROVEN
    # It does not say; a status may stand between that was not seen here.
    assert chain.judge(KEY, raw(11, prev=10)) is ChainVerdict.UNPROVEN


def test_reading_the_same_position_back_forgets_nothing_that_was_seen() -> None:
    chain = Chain()
    chain.link(KEY, raw(10))
    # Whatever was seen: a record that names a status which is not held does not follow.
    assert chain.judge(KEY, raw(11, prev=10, prev_sub=1)) is ChainVerdict.UNPROVEN
    for position in ((1, 10, 0), (1, 9, 0), (0, 99, 0)):
        chain.restore(KEY, Position(*position))
        assert chain.held(KEY) == (1, 10, 0)
        assert chain.judge(KEY, raw(11, prev=10)) is ChainVerdict.NEXT
    chain.restore(KEY, Position(1, 10, 1))
    assert chain.judge(KEY, raw(11, prev=10)) is ChainVerdict.UNPROVEN


@pytest.mark.parametrize(
    ("epoch", "seq", "prev", "prev_sub", "answer"),
    [
        (1, 11, 10, 2, True),
        (2, 11, 10, 2, False),
        (1, 11, 9, 2, False),
        (1, 11, 10, 1, False),
        (1, 11, 10, 3, False),
        # Not above what it names.
        (1, 10, 10, 2, False),
        (1, 9, 10, 2, False),
    ],
)
def test_the_plainest_case_is_the_one_in_which_all_numbers_agree(
    epoch: int, seq: int, prev: int, prev_sub: int, *, answer: bool
) -> None:
    assert Place(1, 10, 2, seen=True).precedes(epoch, seq, prev, prev_sub) is answer
    assert Place(1, 1, 0, seen=True).precedes(1, 2, 1, 0)
    # Nothing stands before the first record: 0 names no predecessor.
    assert not Place(1, 0, 0, seen=True).precedes(1, 5, 0, 0)


def test_what_is_held_is_told_with_its_statuses_and_nothing_before_the_first() -> None:
    chain = Chain()
    assert chain.held(KEY) is None
    assert chain.place(KEY) is None
    chain.restore(KEY, Position(1, 10, 2))
    assert chain.held(KEY) == (1, 10, 2)
    assert chain.place(KEY) == Place(1, 10, 2, seen=False)
    assert chain.place(TRADES) is None


def test_what_was_worked_on_here_was_seen_with_every_status() -> None:
    chain = Chain()
    chain.restore(KEY, Position(1, 10, 0))
    assert chain.judge(KEY, raw(11, prev=10)) is ChainVerdict.UNPROVEN
    assert chain.link(KEY, raw(11, prev=10)) == Link(10)
    assert chain.judge(KEY, raw(12, prev=11)) is ChainVerdict.NEXT


@pytest.mark.parametrize(
    ("key", "seq", "verdict"),
    [
        (TRADES, 11, ChainVerdict.NEXT),
        (TRADES, 12, ChainVerdict.UNPROVEN),
        # Its numbers have holes: the next one proves nothing.
        (KEY, 11, ChainVerdict.UNPROVEN),
        (KEY, 12, ChainVerdict.UNPROVEN),
    ],
)
def test_a_record_that_names_none_follows_where_numbers_have_no_holes(
    key: StreamKey, seq: int, verdict: ChainVerdict
) -> None:
    chain = Chain()
    chain.link(key, raw(10, key=key))
    assert chain.judge(key, raw(seq, key=key)) is verdict


@pytest.mark.parametrize(("prev", "linked"), [(9, 9), (10, None), (11, None), (0, None)])
def test_a_streams_first_record_keeps_the_predecessor_that_it_names(
    prev: int, linked: int | None
) -> None:
    assert Chain().link(KEY, raw(10, prev=prev)) == Link(linked)
    # So it does behind a status that stood before any record.
    chain = Chain()
    chain.link(KEY, raw(0, 1, kind="status"))
    assert chain.link(KEY, raw(10, prev=prev)) == Link(linked)
