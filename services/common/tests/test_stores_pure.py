"""Codecs and the archive's index, without a store."""

from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.stores.index import (
    BadCommit,
    Commit,
    Head,
    IndexedObject,
    Span,
    next_commit,
    pack_commit,
    settle_pending,
    unpack_commit,
)
from services.common.stores.layout import (
    BadObject,
    archive_key,
    checkpoint_key,
    end_mark,
    mark,
    pack_checkpoint,
    parse_archive_key,
    partition_of,
    unpack_checkpoint,
)
from services.common.stores.packed import MAX_UNPACKED_BYTES, unpacked
from services.common.stores.ports import Checkpoint, LatestRow
from services.common.stores.rows import COMPRESS_ABOVE, BadRow, row_from_item, row_to_item
from services.common.stream import Position
from services.common.subjects import StreamKey

KEY = StreamKey("coinbase", "ticker", "BTC-USD")
STREAMS = ("a:b:c", "a:b:d", "a:b:e")


@given(
    st.integers(0, 2**60),
    st.integers(0, 2**60),
    st.binary(max_size=3 * COMPRESS_ABOVE).filter(lambda state: state[:2] != b"\x1f\x8b"),
    st.none() | st.text(min_size=1, max_size=20),
)
def test_row_comes_back_from_its_item(
    epoch: int, seq: int, state: bytes, checkpoint: str | None
) -> None:
    row = LatestRow(KEY, Position(epoch, seq), "42", 3, 1_790_000_000_000_000, state, checkpoint)
    item = row_to_item(row)
    assert row_from_item(item) == row
    assert ("checkpoint" in item) == (checkpoint is not None)


def test_large_state_is_compressed_and_a_small_one_readable() -> None:
    large = b'{"a":"' + b"0" * COMPRESS_ABOVE + b'"}'
    item = row_to_item(LatestRow(KEY, Position(1, 2), "", 0, 0, large))
    assert gzip.decompress(item["state"]["B"]) == large
    assert row_to_item(LatestRow(KEY, Position(1, 2), "", 0, 0, b"{}"))["state"]["B"] == b"{}"


@pytest.mark.parametrize(
    "damage", [{"stream": {"S": "no"}}, {"seq": {"N": "x"}}, {"state": {"S": 1}}, {"epoch": {}}]
)
def test_foreign_item_is_a_bad_row(damage: dict[str, dict[str, object]]) -> None:
    item = row_to_item(LatestRow(KEY, Position(1, 2), "", 0, 0, b"{}"))
    with pytest.raises(BadRow):
        row_from_item(item | damage)


def test_checkpoint_comes_back_and_garbage_does_not() -> None:
    held = Checkpoint(KEY, Position(7, 9), "c", 1, 5, b'{"bids":[],"asks":[]}')
    assert unpack_checkpoint(pack_checkpoint(held)) == held
    for garbage in (b"", b"{}", gzip.compress(b"{}"), pack_checkpoint(held)[:-3]):
        with pytest.raises(BadObject):
            unpack_checkpoint(garbage)


@given(st.integers(0, 2**50), st.integers(0, 2**50), st.integers(0, 2**50), st.integers(0, 2**50))
def test_checkpoint_names_sort_by_position(epoch: int, seq: int, epoch2: int, seq2: int) -> None:
    one, other = Position(epoch, seq), Position(epoch2, seq2)
    assert (checkpoint_key(KEY, one) < checkpoint_key(KEY, other)) == (one < other)


def test_archive_names_follow_the_contract() -> None:
    ts = 1_790_002_800_000_000
    name = archive_key(
        partition_of("ticks", KEY, ts, 5),
        mark(KEY, Position(1, 2), ts),
        end_mark([b"one", b"two"], ts + 1),
    )
    assert name.startswith(
        "ticks/v=1/venue=coinbase/channel=ticker/date=2026-09-21/hour=15/shard=5/1790002800000000."
    )
    assert name.endswith(".jsonl.gz")
    assert parse_archive_key(name) is not None
    assert mark(KEY, Position(1, 2), ts) != mark(KEY, Position(1, 2, 1), ts)
    assert end_mark([b"one", b"two"], ts) != end_mark([b"one", b"more", b"two"], ts)


def head(seq: int) -> Head:
    return Head(Position(1, seq), f"c{seq}")


def entry(name: str, **spans: tuple[int, int]) -> IndexedObject:
    return IndexedObject(
        name,
        {
            f"a:b:{stream}": Span(Position(1, first), head(last), last - first + 1)
            for stream, (first, last) in spans.items()
        },
    )


def test_commit_comes_back_and_garbage_does_not() -> None:
    commit = next_commit("tick.1", None, [entry("x", c=(1, 4))], 99)
    assert unpack_commit(pack_commit(commit)) == commit
    for garbage in (b"", b"{}", gzip.compress(b"[1]")):
        with pytest.raises(BadCommit):
            unpack_commit(garbage)


def test_heads_accumulate_from_commit_to_commit() -> None:
    first = next_commit("tick.1", None, [entry("x", c=(1, 4), d=(1, 1))], 0)
    second = next_commit("tick.1", first, [entry("y", c=(5, 9)), entry("z", c=(10, 11))], 1)
    assert (first.number, second.number) == (1, 2)
    assert second.heads == {"a:b:c": head(11), "a:b:d": head(1)}
    assert second.objects_of("a:b:c", Position(1, 9)) == ["z"]
    assert second.objects_of("a:b:c", Position(1, 8)) == ["y", "z"]
    assert second.reaches("a:b:d", Position(1, 0))
    assert not second.reaches("a:b:d", Position(1, 1))


@st.composite
def interrupted(draw: st.DrawFn) -> tuple[Commit, Commit, set[str]]:
    """A finished commit, the one that a crash interrupted, and which objects were stored."""
    previous = next_commit("tick.1", None, [entry("p", c=(1, 5), d=(1, 5), e=(1, 5))], 0)
    at = dict.fromkeys("cde", 6)
    objects = []
    for number in range(draw(st.integers(1, 6))):
        streams = draw(st.sets(st.sampled_from("cde"), min_size=1))
        spans = {}
        for stream in sorted(streams):
            size = draw(st.integers(1, 3))
            spans[stream] = (at[stream], at[stream] + size - 1)
            at[stream] += size
        objects.append(entry(f"o{number}", **spans))
    stored = draw(st.sets(st.sampled_from([found.key for found in objects])))
    return previous, next_commit("tick.1", previous, objects, 1), stored


@given(interrupted())
def test_settling_leaves_no_hole_in_any_stream_and_no_object_outside_the_index(
    case: tuple[Commit, Commit, set[str]],
) -> None:
    previous, pending, stored = case
    settlement = settle_pending(pending, previous, stored)
    kept = settlement.commit.objects if settlement.commit is not None else []
    kept_keys = {found.key for found in kept}
    assert kept_keys | set(settlement.orphans) == stored
    assert kept_keys.isdisjoint(settlement.orphans)
    reached = {stream: found.position.seq for stream, found in previous.heads.items()}
    for found in kept:
        for stream, span in found.streams.items():
            assert span.first.seq == reached[stream] + 1
            reached[stream] = span.last.position.seq
    final = settlement.commit if settlement.commit is not None else previous
    assert {stream: found.position.seq for stream, found in final.heads.items()} == reached
    if stored == {found.key for found in pending.objects}:
        assert settlement.commit == pending


def test_what_unpacks_to_more_than_anything_of_ours_is_not_unpacked() -> None:
    bomb = gzip.compress(bytes(MAX_UNPACKED_BYTES + 1), 1)
    with pytest.raises(gzip.BadGzipFile, match=str(MAX_UNPACKED_BYTES)):
        unpacked(bomb)
    with pytest.raises(BadCommit):
        unpack_commit(bomb)
    with pytest.raises(BadObject):
        unpack_checkpoint(bomb)
    with pytest.raises(BadRow):
        row_from_item(
            {**row_to_item(LatestRow(KEY, Position(1, 2), "", 0, 0, b"{}")), "state": {"B": bomb}}
        )


def test_an_object_of_several_members_is_one_and_one_that_is_cut_off_is_none() -> None:
    both = gzip.compress(b"one") + gzip.compress(b"two") + bytes(4)
    assert unpacked(both) == b"onetwo"
    for cut in (both[:-20], both[:5]):
        with pytest.raises(EOFError):
            unpacked(cut)
    with pytest.raises(zlib.error):
        unpacked(gzip.compress(b"one") + b"more")
