"""The pure parts of the brokers: positions in ids and cursors, sources, the memory log."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio.connection import Connection

from services.common.errors import PositionLost
from services.common.settings import CommonSettings
from services.common.stream import LogSpec, Position, Record
from services.common.stream.factory import open_broker
from services.common.stream.memory.log import GroupState, MemoryLog
from services.common.stream.nats.records import (
    message_id,
    parse_cursor,
    position_cursor,
    position_of,
    sequence_cursor,
    sequence_of_reply,
)
from services.common.stream.records import Held
from services.common.stream.redis.packing import Packed, pack, pack_record
from services.common.stream.redis.records import Source, Sources
from services.common.stream.retention import is_cut
from services.common.stream.specs import log_specs
from services.common.stream.unsynced_records import UnsyncedRecords
from services.common.subjects import INVALID_SUBJECT

BTC = "market.raw.coinbase.ticker.BTC-USD"
positions = st.builds(Position, st.integers(0, 2**53), st.integers(0, 2**63), st.integers(0, 1000))


@given(position=positions, subject=st.sampled_from([BTC, INVALID_SUBJECT, "market.tick.3.a.b.c"]))
def test_a_message_id_gives_the_position_back(position: Position, subject: str) -> None:
    assert position_of(subject, message_id(subject, position)) == position


def test_a_message_id_is_the_stream_and_the_position() -> None:
    assert message_id(BTC, Position(5, 7)) == "coinbase:ticker:BTC-USD:5:7"
    assert message_id(BTC, Position(5, 7, 2)) == "coinbase:ticker:BTC-USD:5:7:2"
    assert message_id(INVALID_SUBJECT, Position(0, 9)) == "invalid:0:9"


@pytest.mark.parametrize("identity", ["", "other:1:2", "coinbase:ticker:BTC-USD:x:1"])
def test_a_record_of_somebody_else_counts_as_the_oldest(identity: str) -> None:
    assert position_of(BTC, identity) == Position(0, 0)


@given(epoch=st.integers(1, 2**60), seq=st.integers(0, 2**60), position=positions)
def test_a_cursor_is_read_back_by_its_own_log_only(
    epoch: int, seq: int, position: Position
) -> None:
    assert parse_cursor(BTC, sequence_cursor(epoch, seq), epoch) == seq
    assert parse_cursor(BTC, position_cursor(epoch, position), epoch) == position
    with pytest.raises(PositionLost):
        parse_cursor(BTC, sequence_cursor(epoch, seq), epoch + 1)


@pytest.mark.parametrize("text", ["07", "p1.2.03", "٧", "p1.2.٣", "7 ", "", "p1.2", "1.2.3"])
def test_no_other_text_is_a_cursor(text: str) -> None:
    with pytest.raises(PositionLost):
        parse_cursor(BTC, f"5@{text}", 5)


def test_the_stream_sequence_is_found_in_both_forms_of_ack_subjects() -> None:
    assert sequence_of_reply("$JS.ACK.MARKET_RAW.readers.1.42.7.1700000000.5") == 42
    assert sequence_of_reply("$JS.ACK.hub.AbCd.MARKET_RAW.readers.1.42.7.1700000000.5.xyz") == 42


def test_a_newer_epoch_is_read_only_when_the_older_one_is_drained() -> None:
    sources = Sources()
    old, new, other = Source(BTC, 1), Source(BTC, 2), Source("market.raw.a.b.c", 5)
    assert sources.add(new)
    assert sources.add(old)
    assert not sources.add(old)
    sources.add(other)
    assert sources.readable() == ([old, other], True)
    sources.drained(other)
    sources.drained(old)
    assert sources.readable() == ([old, new, other], False)


def test_a_history_keeps_the_newest_records_within_its_bounds() -> None:
    unsynced = UnsyncedRecords(max_records=3, max_bytes=100)
    for n in range(1, 6):
        unsynced.add(Record(BTC, b"", Position(1, n)), 10, epoch=1, now=float(n))
    assert [r.position.seq for r in unsynced.of("raw", 1, 3600.0, 5.0)] == [3, 4, 5]
    unsynced.add(Record(BTC, b"", Position(1, 6)), 95, epoch=1, now=6.0)
    assert [r.position.seq for r in unsynced.of("raw", 1, 3600.0, 6.0)] == [6]
    assert unsynced.of("raw", 1, 3600.0, 400.0) == []


def test_a_history_writes_nothing_of_a_lost_log_into_its_successor() -> None:
    unsynced = UnsyncedRecords(max_records=9, max_bytes=100)
    unsynced.add(Record(BTC, b"", Position(1, 1)), 10, epoch=1, now=0.0)
    unsynced.add(Record("market.tick.0.a.b.c", b"", Position(1, 1)), 10, epoch=5, now=0.0)
    assert unsynced.logs() == ["raw", "tick.0"]
    assert unsynced.of("raw", 2, 3600.0, 1.0) == []
    assert unsynced.logs() == ["tick.0"]


@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("append"), st.integers(1, 5)),
            st.tuples(st.just("take"), st.integers(1, 4)),
            st.tuples(st.just("ack"), st.integers(0, 3)),
            st.tuples(st.just("wait"), st.integers(1, 12)),
            st.tuples(st.just("join"), st.just(0)),
        ),
        max_size=60,
    )
)
def test_a_group_delivers_every_record_in_order_and_again_until_acked(
    steps: list[tuple[str, int]],
) -> None:
    log = MemoryLog(LogSpec("raw", 10_000.0), epoch=1)
    group = GroupState(log, max_pending=6, ack_wait_s=10.0)
    now, newest = 0.0, 0
    held: dict[int, float] = {}
    acked: set[int] = set()
    first_seen: list[int] = []

    def deliver(limit: int) -> None:
        for stored in group.deliver(limit, now):
            assert stored.seq not in acked
            assert stored.seq not in held or held[stored.seq] <= now
            held[stored.seq] = now + 10.0
            if stored.seq not in first_seen:
                first_seen.append(stored.seq)
        assert sum(deadline > now for deadline in held.values()) <= 6

    for action, amount in steps:
        if action == "append":
            for _ in range(amount):
                newest += 1
                assert log.append(Record(BTC, b"", Position(1, newest)), now)
        elif action == "take":
            deliver(amount)
        elif action == "ack":
            for seq in list(held)[:amount]:
                group.ack([seq])
                acked.add(seq)
                del held[seq]
        elif action == "wait":
            now += amount
        else:
            group.take_over()
            held = dict.fromkeys(held, now)
    now += 100
    while len(acked) < newest:
        deliver(100)
        assert held
        for seq in list(held):
            group.ack([seq])
            acked.add(seq)
            del held[seq]
    assert first_seen == list(range(1, newest + 1))
    assert group.lag() == 0


@given(
    ages=st.lists(st.floats(0, 3), max_size=60),
    probe=st.integers(0, 60),
)
def test_a_memory_log_goes_on_from_a_cursor_exactly_or_says_that_it_cannot(
    ages: list[float], probe: int
) -> None:
    log = MemoryLog(LogSpec("raw", 10.0), epoch=1)
    now = 0.0
    cursors: list[str] = []
    for number, age in enumerate(ages, 1):
        now += age
        log.append(Record(BTC, b"", Position(1, number)), now)
        cursors.append(log.of(BTC)[-1].cursor)
    kept = [stored.position.seq for stored in log.of(BTC)]
    assert kept == list(range(len(ages) - len(kept) + 1, len(ages) + 1))
    if probe >= len(cursors):
        return
    wanted = list(range(probe + 2, len(ages) + 1))
    if wanted and wanted[0] < kept[0]:
        with pytest.raises(PositionLost):
            log.read(BTC, cursors[probe], 1000)
    else:
        found, _, at_head = log.read(BTC, cursors[probe], 1000)
        assert [stored.position.seq for stored in found] == wanted
        assert at_head


@pytest.mark.parametrize("kind", get_args(CommonSettings.model_fields["broker_kind"].annotation))
def test_the_settings_choose_the_broker(kind: str) -> None:
    made = open_broker(CommonSettings.model_validate({"broker_kind": kind}))
    assert type(made).__module__ == f"services.common.stream.{kind}.broker"


def test_every_log_is_kept_for_the_configured_time() -> None:
    settings = CommonSettings.model_validate({"shard_count": 2, "js_retention_minutes": 5})
    assert [(spec.log, spec.retention_s) for spec in log_specs(settings)] == [
        ("raw", 300),
        ("tick.0", 300),
        ("tick.1", 300),
        ("invalid", 300),
    ]


def test_every_log_has_its_part_of_the_bounds() -> None:
    mib = 1024**2
    settings = CommonSettings.model_validate(
        {
            "shard_count": 2,
            "js_raw_max_bytes": 100 * mib,
            "js_tick_max_bytes": 80 * mib,
            "js_invalid_max_bytes": 0,
        }
    )
    assert [(spec.log, spec.max_bytes // mib) for spec in log_specs(settings)] == [
        ("raw", 100),
        ("tick.0", 40),
        ("tick.1", 40),
        ("invalid", 0),
    ]


@given(size=st.integers(0, 1000), max_bytes=st.integers(0, 1000), oldest_s=st.floats(0, 200))
def test_a_retention_is_cut_where_the_bound_is_reached_before_the_age(
    size: int, max_bytes: int, oldest_s: float
) -> None:
    cut = is_cut(Held(size, max_bytes, oldest_s), 100.0)
    if max_bytes == 0 or size < max_bytes // 2 or oldest_s >= 100:
        assert not cut
    if max_bytes and size >= max_bytes and oldest_s < 90:
        assert cut


ARGUMENTS = st.one_of(
    st.binary(max_size=9), st.text(max_size=5), st.integers(-9, 2**60), st.floats(allow_nan=False)
)


@given(st.lists(ARGUMENTS, max_size=6), st.binary(max_size=5), st.binary(), st.binary(max_size=5))
def test_packed_commands_are_what_redis_py_would_send(
    arguments: list[bytes | str | float], identity: bytes, payload: bytes, headers: bytes
) -> None:
    whole: list[bytes | str | float] = ["XADD", *arguments, identity, payload, headers]
    theirs = b"".join(Connection().pack_command(*whole))
    head = pack(whole[:-4])
    ours = Packed(len(whole), head, pack_record(pack(whole[-4:-3]), identity, payload, headers))
    assert ours.data == theirs
    assert Packed(len(whole), pack(whole)).data == theirs
