"""The pure part: same raw log, same bytes, whoever computes them and however often."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.domain.fold import Fold
from services.common.stream import Position, Record
from services.common.subjects import StreamKey
from services.common.testing.raw_records import RawStream, raw_message
from services.common.wire import (
    Fields,
    Late,
    RawRecord,
    Reset,
    Status,
    Tick,
    decode_record,
)
from services.normalizer.chain import ChainVerdict
from services.normalizer.normalize import Normalized, Normalizer
from services.normalizer.stand_in import too_large
from services.normalizer.venues.mapping import Unmappable

SHARDS = 8
TRADES = StreamKey("coinbase", "trades", "BTC-USD")
TICKER = StreamKey("coinbase", "ticker", "BTC-USD")
BOOK = StreamKey("coinbase", "book", "BTC-USD")


def run(records: Iterable[RawRecord], normalizer: Normalizer | None = None) -> list[Record]:
    """What a normalizer writes that is fed these records in order."""
    normalizer = normalizer or Normalizer(SHARDS)
    found: list[Record] = []
    for record in records:
        message = raw_message(record)
        key = StreamKey(record.venue, record.channel, record.product)
        raw = normalizer.read(message.subject, message.position, message.payload)
        if normalizer.chain.judge(key, raw) is not ChainVerdict.DUPLICATE:
            found += normalizer.normalize(key, raw).records
    return found


def take(normalizer: Normalizer, record: RawRecord) -> Normalized:
    message = raw_message(record)
    raw = normalizer.read(message.subject, message.position, message.payload)
    return normalizer.normalize(StreamKey(record.venue, record.channel, record.product), raw)


def decoded(outs: Iterable[Record]) -> list[Any]:
    return [decode_record(out.payload) for out in outs]


@st.composite
def raw_streams(draw: st.DrawFn) -> RawStream:
    """A stream as an ingestor might write it, with everything that may happen to one."""
    key = draw(st.sampled_from([TRADES, TICKER, BOOK]))
    stream = RawStream(key)
    step = st.just(1) if key.channel == "trades" else st.integers(1, 50)
    kinds = ["frame"] * 6 + ["status", "late", "gap", "resync", "restart", "epoch", "bad"]
    for kind in draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=25)):
        seq = stream.seq + draw(step)
        match kind:
            case "frame":
                add_frame(stream, seq)
            case "status":
                stream.status()
            case "late":
                stream.late(1, 2, [1])
            case "gap":
                stream.gap(seq + 3)
            case "resync":
                add_resync(stream, seq)
            case "restart":
                # No baseline is held: what came before is not known.
                stream.seq = seq + draw(st.integers(0, 5))
                held, stream.seq = stream.seq, 0
                add_frame(stream, held + 1)
            case "epoch":
                stream.epoch += 1
                stream.seq = stream.sub = 0
            case _:
                stream.add("frame", seq, {"type": "surprise"})
    return stream


def add_frame(stream: RawStream, seq: int) -> None:
    if stream.key.channel == "trades":
        stream.match(seq)
    elif stream.key.channel == "ticker":
        stream.ticker(seq)
    else:
        stream.changes(seq, [("buy", "10.5", str(seq)), ("sell", "11", "0")])


def add_resync(stream: RawStream, seq: int) -> None:
    if stream.key.channel == "book":
        stream.snapshot(seq, [["10", "1"]], [["11", "1"]])
    else:
        stream.add("resync", seq, {"cause": "gap", "repair": "refilled", "message": None})


def assert_chained(records: list[Any]) -> None:
    """Positions increase; inside an epoch each record names the one before it."""
    positions = [(r.epoch, r.seq, getattr(r, "sub", 0)) for r in records]
    assert positions == sorted(set(positions))
    held: Tick | Reset | None = None
    for record in records:
        if isinstance(record, Status | Late):
            continue
        if held is not None and record.epoch == held.epoch:
            assert record.prev == held.seq
        held = record


@given(raw_streams())
def test_whatever_an_ingestor_writes_the_ticks_are_chained(stream: RawStream) -> None:
    records = decoded(run(stream.records))
    assert_chained(records)
    places = {(r.epoch, r.seq, getattr(r, "sub", 0)) for r in records}
    assert places >= {(raw.epoch, raw.seq, raw.sub) for raw in stream.records}


@given(raw_streams(), st.data())
def test_no_reset_is_written_without_the_state_that_follows_it(
    stream: RawStream, data: st.DataObject
) -> None:
    """Whatever is lost, odd or broken: a reader that drops its state is given another one."""
    kept = [raw for raw in stream.records if data.draw(st.booleans())]
    for out in run(kept):
        for payload in (out.payload, too_large(out.payload)):
            record = decode_record(payload)
            if isinstance(record, Reset):
                assert record.repair == "snapshot"
                assert record.state is not None
                Fold(stream.key).apply(record)


@given(raw_streams(), st.data())
def test_a_normalizer_killed_anywhere_goes_on_with_the_same_bytes(
    stream: RawStream, data: st.DataObject
) -> None:
    """Killed when any number of its ticks were stored, and given any part of the raw log again."""
    undisturbed = run(stream.records)
    stored = undisturbed[: data.draw(st.integers(0, len(undisturbed)), label="stored")]
    second = Normalizer(SHARDS)
    acked = 0
    if stored:
        second.chain.restore(stream.key, stored[-1].position)
        done = [i for i, raw in enumerate(stream.records) if position(raw) <= stored[-1].position]
        acked = data.draw(st.integers(0, len(done)), label="acked")
    assert stored + run(stream.records[acked:], second) == undisturbed


def position(raw: RawRecord) -> Position:
    return Position(raw.epoch, raw.seq, raw.sub)


@given(raw_streams(), st.data())
def test_records_that_the_raw_log_lost_are_never_passed_over_in_silence(
    stream: RawStream, data: st.DataObject
) -> None:
    kept = [raw for raw in stream.records if data.draw(st.booleans())]
    lost = [raw for raw in stream.records if raw not in kept and raw.kind == "frame"]
    records = decoded(run(kept))
    assert_chained(records)
    if not kept:
        return
    for raw in lost:
        # Before the first record that advances nothing is held; the next one's `prev` tells.
        inside = [r for r in kept if r.epoch == raw.epoch and r.seq > 0]
        if raw.channel == "ticker" or not inside or not inside[0].seq < raw.seq < inside[-1].seq:
            continue
        # A later record names what came before it, or something stands where it was: of a book a
        # tick that says nothing, and the writer of the raw log is asked for a new base.
        assert any(
            (isinstance(record, Reset) or record.fields == Fields(changes=[]))
            and record.epoch == raw.epoch
            and record.seq >= raw.seq
            for record in records
            if isinstance(record, Tick | Reset)
        )


@given(raw_streams())
def test_a_record_seen_twice_is_a_duplicate(stream: RawStream) -> None:
    normalizer = Normalizer(SHARDS)
    once = run(stream.records, normalizer)
    assert run(stream.records, normalizer) == []
    assert once == run([raw for raw in stream.records for _ in range(2)])


class TestEnvelopes:
    @pytest.mark.parametrize(
        ("changes", "code"),
        [
            ({"v": 2}, "unknown_version"),
            ({"product": "ETH-USD"}, "wrong_subject"),
            ({"venue": "kraken"}, "wrong_subject"),
            ({"epoch": 5}, "wrong_position"),
            ({"seq": 8}, "wrong_position"),
            ({"sub": 1}, "wrong_position"),
            ({"kind": "status"}, "bad_position"),
            ({"kind": "surprise"}, "bad_field"),
            ({"seq": "7"}, "bad_field"),
        ],
    )
    def test_a_record_that_contradicts_its_envelope_is_refused(
        self, changes: dict[str, Any], code: str
    ) -> None:
        message = raw_message(RawStream(TRADES).match(7))
        payload = json.dumps(json.loads(message.payload) | changes).encode()
        with pytest.raises(Unmappable) as refusal:
            Normalizer(SHARDS).read(message.subject, message.position, payload)
        assert refusal.value.code == code

    @given(st.binary(max_size=100))
    def test_no_bytes_do_worse_than_being_refused(self, payload: bytes) -> None:
        with pytest.raises(Unmappable):
            Normalizer(SHARDS).read("market.raw.coinbase.trades.BTC-USD", Position(1, 1), payload)

    def test_unknown_fields_are_ignored(self) -> None:
        message = raw_message(RawStream(TRADES).match(7))
        payload = json.dumps(json.loads(message.payload) | {"later": [1]}).encode()
        raw = Normalizer(SHARDS).read(message.subject, message.position, payload)
        assert raw.seq == 7

    def test_a_venue_nobody_knows_is_refused_and_its_place_kept(self) -> None:
        stream = RawStream(StreamKey("kraken", "trades", "BTC-USD"))
        stream.match(1)
        (reset,) = decoded(run(stream.records))
        assert (reset.cause, reset.seq) == ("invalid_message", 1)


def test_a_fold_of_the_ticks_gives_the_book_that_the_raw_messages_describe() -> None:
    stream = RawStream(BOOK)
    stream.snapshot(100, [["10", "1"], ["9", "1"]], [["11", "2"]])
    stream.changes(200, [("buy", "10.0", "0"), ("sell", "10.50", "3")])
    fold = Fold(BOOK)
    for record in decoded(run(stream.records)):
        assert fold.apply(record)
    assert json.loads(fold.state()) == {"bids": [["9", "1"]], "asks": [["10.50", "3"], ["11", "2"]]}
