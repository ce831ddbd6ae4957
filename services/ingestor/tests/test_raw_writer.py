"""Where one stream's records stand, what they name, and what moves when the broker takes none."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from services.common.errors import RecordRefused
from services.common.stream import Position, Record
from services.common.subjects import StreamKey, raw_subject
from services.common.wire import (
    GapBody,
    LateBody,
    Missed,
    OpenGap,
    RawRecord,
    ResyncBody,
    StatusBody,
    decode_raw,
)
from services.ingestor.streams.raw_writer import RawStreamWriter, gap_instead
from services.ingestor.testing import RawLog

KEY = StreamKey("coinbase", "trades", "BTC-USD")
NOW = 1_790_000_000_000_000
OPEN = (OpenGap(Missed(2, 3, 2), NOW),)


def writer_on(log: RawLog, key: StreamKey = KEY, **more: Any) -> RawStreamWriter:
    return RawStreamWriter(key, "line-1", log.offer, **{"epoch": 7, **more})


def gap_body(record: RawRecord) -> GapBody:
    return msgspec.json.decode(record.body, type=GapBody)


def test_each_record_has_its_place_and_names_the_one_before() -> None:
    log = RawLog()
    writer = writer_on(log)
    assert writer.status("live", NOW, "joined", NOW)
    assert writer.status("stale", NOW, "silent", NOW + 1)
    for seq in (5, 6):
        assert writer.frame(seq, b"{}", NOW + seq)
    assert writer.status("live", NOW, "heard", NOW + 7)
    assert writer.frame(9, b"{}", NOW + 9)
    places = [(one.seq, one.sub, one.prev, one.prev_sub) for one in log.records]
    assert places == [
        # Nothing stands before the first.
        (0, 1, None, None),
        (0, 2, None, 1),
        (5, 0, None, 2),
        (6, 0, 5, 0),
        (6, 1, 6, 0),
        (9, 0, 6, 1),
    ]
    assert {(one.epoch, one.line, one.venue) for one in log.records} == {(7, "line-1", "coinbase")}
    assert [one.ts_recv for one in log.records[2:4]] == [NOW + 5, NOW + 6]
    assert (writer.seq, writer.sub, writer.advanced_at) == (9, 0, NOW + 9)


def test_who_goes_on_where_another_ended_names_its_last_record() -> None:
    log = RawLog()
    writer = writer_on(log, seq=4, sub=2)
    assert (writer.advanced_at, writer.told_open_at, writer.open_gaps) == (0, 0, ())
    assert (writer.heard, writer_on(log, heard=NOW).heard) == (0, NOW)
    assert writer.status("live", NOW, "joined", NOW)
    (record,) = log.records
    assert (record.seq, record.sub, record.prev, record.prev_sub) == (4, 3, 4, 2)


def test_what_is_not_taken_moves_nothing() -> None:
    log = RawLog()
    writer = writer_on(log, seq=4, sub=1)
    log.away = True
    assert not writer.frame(5, b"{}", NOW)
    assert not writer.status("live", NOW, "joined", NOW)
    assert not writer.gap("gap", Missed(5, 6, 2), NOW, OPEN)
    assert (writer.seq, writer.sub, writer.advanced_at) == (4, 1, 0)
    assert (writer.open_gaps, writer.told_open_at) == ((), 0)


@pytest.mark.parametrize(("told", "epoch"), [(3, 8), (8, 8), (20, 20)])
def test_a_new_epoch_is_above_the_one_before_and_its_places_begin_anew(
    told: int, epoch: int
) -> None:
    log = RawLog()
    writer = writer_on(log, seq=4, sub=2, open_gaps=OPEN, open_at=(4, 2))
    writer.restart(told)
    assert (writer.epoch, writer.seq, writer.sub) == (epoch, None, 0)
    assert writer.frame(1, b"{}", NOW)
    assert writer.status("live", NOW, "joined", NOW)
    first, second = log.records
    assert (first.epoch, first.seq, first.sub, first.prev, first.prev_sub) == (
        *(epoch, 1, 0),
        *(None, None),
    )
    # They were listed in the epoch before; the first record that may lists them again.
    assert (first.open_gaps, first.open_at) == (None, None)
    assert (second.open_gaps, second.open_at) == (list(OPEN), None)


def test_open_gaps_are_listed_by_all_but_the_venues_own_messages_which_name_the_list() -> None:
    log = RawLog()
    writer = writer_on(log, seq=1)
    assert writer.gap("gap", Missed(2, 3, 2), NOW + 1, OPEN)
    assert writer.told_open_at == NOW + 1
    assert writer.frame(4, b"{}", NOW + 2)
    assert writer.status("live", NOW, "joined", NOW + 3)
    assert writer.frame(5, b"{}", NOW + 4)
    assert writer.told_open_at == NOW + 3
    assert writer.resync(6, "gap", b"{}", NOW + 5)
    late = LateBody(Missed(2, 3, 2), [], [], [], "denied")
    assert writer.late(late, (), NOW + 6)
    assert writer.frame(7, b"{}", NOW + 7)
    assert [(one.kind, one.open_gaps, one.open_at) for one in log.records] == [
        ("gap", list(OPEN), None),
        ("frame", None, (3, 0)),
        ("status", list(OPEN), None),
        ("frame", None, (4, 1)),
        ("resync", list(OPEN), None),
        ("late", None, None),
        ("frame", None, None),
    ]
    assert writer.open_gaps == ()
    assert msgspec.json.decode(log.records[5].body, type=LateBody) == late


def test_a_gap_has_the_state_that_follows_it_where_the_stream_has_one() -> None:
    log = RawLog()
    writer = writer_on(log, seq=1)
    assert writer.gap("gap", Missed(2, 3, 2), NOW)
    writer.state_of = lambda: b'[{"trade_id":3}]'
    assert writer.gap("gap", Missed(4, 4, 1), NOW)
    without, with_state = map(gap_body, log.records)
    assert (without.cause, without.missed, without.message) == ("gap", Missed(2, 3, 2), None)
    assert bytes(with_state.message or b"") == b'[{"trade_id":3}]'
    assert log.seqs("gap") == [3, 4]


def test_what_is_written_is_what_was_given() -> None:
    taken: list[Record] = []

    def take(record: Record) -> bool:
        taken.append(record)
        return True

    writer = RawStreamWriter(KEY, "line-1", take, epoch=7)
    changes = [("buy", "10", "1")]
    assert writer.frame(5, b'{"trade_id":5}', NOW, changes)
    assert writer.resync(6, "gap", b'{"bids":[]}', NOW + 1, Missed(1, 2, 2))
    assert writer.status("stale", NOW, "silent", NOW + 2)
    assert {record.subject for record in taken} == {raw_subject(KEY)}
    assert [record.position for record in taken] == [(7, 5, 0), (7, 6, 0), (7, 6, 1)]
    frame, resync, status = (decode_raw(record.payload) for record in taken)
    assert (bytes(frame.body), frame.changes) == (b'{"trade_id":5}', changes)
    body = msgspec.json.decode(resync.body, type=ResyncBody)
    assert (body.cause, body.repair, body.missed) == ("gap", "snapshot", Missed(1, 2, 2))
    assert bytes(body.message) == b'{"bids":[]}'
    assert msgspec.json.decode(status.body, type=StatusBody) == StatusBody("stale", NOW, "silent")
    assert [one.ts_recv for one in (frame, resync, status)] == [NOW, NOW + 1, NOW + 2]


def test_the_place_that_is_wanted_is_taken_where_it_is_still_possible() -> None:
    assert writer_on(RawLog()).after(5) == 5
    writer = writer_on(RawLog(), seq=5)
    assert [writer.after(wanted) for wanted in (4, 5, 6)] == [6, 6, 6]
    assert writer.after(9) == 9


class _Refusing(RawLog):
    """Refuses the venue's own messages for good."""

    def offer(self, record: Record) -> bool:
        if decode_raw(record.payload).kind == "frame":
            raise RecordRefused(record.subject, "too large")
        return super().offer(record)


def test_a_trade_that_can_never_be_stored_is_said_to_be_missing() -> None:
    log = _Refusing()
    writer = writer_on(log, seq=4)
    assert writer.frame(5, b"{}", NOW)
    (record,) = log.records
    assert (record.kind, record.seq, record.prev, record.ts_recv) == ("gap", 5, 4, NOW)
    assert gap_body(record).cause == "record_refused"
    assert gap_body(record).missed == Missed(5, 5, 1)
    assert writer.seq == 5


def test_what_else_can_never_be_stored_is_as_if_there_was_no_room() -> None:
    log = _Refusing()
    writer = writer_on(log, KEY._replace(channel="book"), seq=4)
    assert not writer.frame(5, b"{}", NOW)
    assert (log.records, writer.seq) == ([], 4)

    def refuses(record: Record) -> bool:
        raise RecordRefused(record.subject, "too large")

    trades = RawStreamWriter(KEY, "line-1", refuses, epoch=7, seq=4)
    assert not trades.status("live", NOW, "joined", NOW)
    assert not trades.gap("gap", Missed(5, 5, 1), NOW)


def _taken(kind: str, key: StreamKey = KEY, **more: Any) -> Record:
    """A record as the broker has taken it, at (7, 5, 0)."""
    taken: list[Record] = []

    def take(record: Record) -> bool:
        taken.append(record)
        return True

    writer = RawStreamWriter(key, "line-1", take, epoch=7, seq=4, **more)
    if kind == "frame":
        writer.frame(5, b'{"trade_id":5}', NOW)
    else:
        writer.resync(5, "gap", b"{}", NOW)
    return taken[0]


def test_in_the_place_of_a_taken_trade_that_is_never_stored_stands_that_it_is_missing() -> None:
    record = _taken("frame")
    instead = gap_instead(record)
    assert instead is not None
    assert (instead.subject, instead.position) == (record.subject, Position(7, 5, 0))
    raw = decode_raw(instead.payload)
    assert (raw.kind, raw.seq, raw.prev, raw.ts_recv, raw.line) == ("gap", 5, 4, NOW, "line-1")
    assert gap_body(raw) == GapBody("record_refused", Missed(5, 5, 1))


def test_in_the_place_of_others_stands_nothing() -> None:
    assert gap_instead(_taken("resync")) is None
    assert gap_instead(_taken("frame", KEY._replace(channel="book"))) is None
    # It would have to list the open gaps, which it does not know.
    assert gap_instead(_taken("frame", open_gaps=OPEN, open_at=(4, 0))) is None
