from __future__ import annotations

import gzip
from collections import defaultdict
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from services.common.stores.layout import archive_key, end_mark, mark, partition_of
from services.common.stream import Position
from services.common.subjects import StreamKey
from services.common.wire import encode
from tools.replay.archive import ArchiveSource, FolderObjects
from tools.replay.records import Ledger, Recorded, Selection
from tools.replay.side_by_side import SideBySide
from tools.replay.tests.test_replay import BTC, trades

LATEST_S = 60
SLACK_US = LATEST_S * 1_000_000
KEYS = [StreamKey("coinbase", "trades", product) for product in ("A", "B")]


@st.composite
def written(draw: st.DrawFn) -> tuple[list[Recorded], list[list[Recorded]]]:
    """A log's records, and the objects that writers beside each other made of them."""
    log = []
    for number in range(draw(st.integers(1, 60))):
        key = draw(st.sampled_from(KEYS))
        refilled_s = draw(st.sampled_from((0, 0, 0, LATEST_S - 1)))
        ts = (number * 7 + refilled_s) * 1_000_000
        log.append(Recorded(ts, key, Position(1, number), None, None, b"%d" % number))
    writers: dict[int, list[Recorded]] = defaultdict(list)
    objects = []
    for recorded in log:
        writer = draw(st.integers(0, 2))
        writers[writer].append(recorded)
        if draw(st.integers(0, 4)) == 0:
            objects.append(writers.pop(writer))
    objects += writers.values()
    left_lying = [one[: len(one) // 2 + 1] for one in objects if draw(st.integers(0, 4)) == 0]
    return log, sorted(objects + left_lying, key=lambda one: one[0].ts)


@given(written())
def test_each_record_comes_once_and_each_stream_in_its_order(
    case: tuple[list[Recorded], list[list[Recorded]]],
) -> None:
    log, objects = case
    order, given = SideBySide(), []
    for number, records in enumerate(objects, start=1):
        order.add(records)
        last = number == len(objects)
        given += order.take(None if last else objects[number][0].ts - SLACK_US)
    for key in KEYS:
        assert [one for one in given if one.key == key] == [one for one in log if one.key == key]


def test_what_can_still_be_preceded_is_held_and_no_more() -> None:
    order = SideBySide()
    records = [Recorded(ts, BTC, Position(1, ts), None, None, b"") for ts in range(10)]
    order.add(records)
    assert order.take(4) == records[:4]
    assert order.take(4) == []
    assert order.take(None) == records[4:]


async def test_an_hour_that_two_snapshotters_shared_is_replayed(tmp_path: Path) -> None:
    records = trades(BTC, 40)
    for mine in (records[0::2], records[1::2]):
        for at in range(0, len(mine), 5):
            part = mine[at : at + 5]
            lines = [encode(record) for record in part]
            place = partition_of("raw", BTC, part[0].ts_recv, 0)
            first, last = part[0], part[-1]
            begin = mark(BTC, Position(first.epoch, first.seq, first.sub), first.ts_recv)
            path = tmp_path / archive_key(place, begin, end_mark(lines, last.ts_recv))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(gzip.compress(b"".join(line + b"\n" for line in lines)))
    ledger = Ledger()
    async for recorded in ArchiveSource(FolderObjects(tmp_path), Selection()).records():
        ledger.add(recorded, already=False)
    assert ledger.streams[BTC].records == len(records)
    assert ledger.holes == 0
