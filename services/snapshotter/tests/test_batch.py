from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.common.stores.index import Head
from services.common.stream import Position
from services.common.subjects import StreamKey
from services.snapshotter.batch import Batch, one_line

BTC = StreamKey("coinbase", "ticker", "BTC-USD")
HOUR = 3_600_000_000
# 2026-09-21T15:00:00Z
TS = 1_790_002_800_000_000


def new_batch(max_bytes: int = 1000, max_records: int = 100) -> Batch:
    return Batch("ticks", period_s=60, max_bytes=max_bytes, max_records=max_records)


def add(batch: Batch, key: StreamKey, seq: int, ts: int, *, now: float = 0.0) -> None:
    payload = f'{{"p":"{key.product}","seq":{seq}}}'.encode()
    batch.add(key, 3, Head(Position(1, seq), f"c{seq}"), ts, payload, now, refilled=False)


def test_batch_is_due_a_period_after_its_first_record() -> None:
    batch = new_batch()
    assert batch.due_at() is None
    add(batch, BTC, 1, TS, now=100.0)
    add(batch, BTC, 2, TS + 1, now=130.0)
    assert batch.due_at() == 160.0


def test_batch_is_due_at_once_when_it_is_full_of_bytes_or_records() -> None:
    by_bytes, by_records = new_batch(max_bytes=10), new_batch(max_records=2)
    add(by_bytes, BTC, 1, TS, now=5.0)
    assert by_bytes.due_at() == 5.0
    add(by_records, BTC, 1, TS, now=5.0)
    assert by_records.due_at() == 65.0
    add(by_records, BTC, 2, TS, now=6.0)
    assert by_records.due_at() == 5.0


def test_objects_are_partitioned_as_hive_does_and_named_after_their_content() -> None:
    batches = [new_batch(), new_batch()]
    for batch in batches:
        add(batch, BTC, 1, TS)
        add(batch, StreamKey("coinbase", "trades", "ETH-USD"), 7, TS + 5)
        add(batch, BTC, 2, TS + 9)
    first, again = (batch.seal() for batch in batches)
    keys = [sealed.entry.key for sealed in first.objects]
    assert keys == [sealed.entry.key for sealed in again.objects]
    ticker = "ticks/v=1/venue=coinbase/channel=ticker/date=2026-09-21/hour=15/shard=3/"
    assert keys[0].startswith(f"{ticker}{TS}.")
    assert keys[0].endswith(".jsonl.gz")
    assert f"-{TS + 9}." in keys[0]
    assert "/channel=trades/" in keys[1]
    assert batches[0].due_at() is None


def test_a_clock_set_back_over_the_hour_does_not_put_records_out_of_order() -> None:
    batch = new_batch()
    for seq, ts in enumerate((TS + HOUR - 1, TS + HOUR, TS + HOUR - 2, TS + HOUR + 1)):
        add(batch, BTC, seq, ts)
    spans = [sealed.entry.streams[str(BTC)] for sealed in batch.seal().objects]
    assert [(span.first.seq, span.last.position.seq, span.count) for span in spans] == [
        (0, 0, 1),
        (1, 3, 3),
    ]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3 * HOUR)), max_size=60))
def test_every_record_is_in_one_object_and_streams_keep_their_order(
    records: list[tuple[int, int]],
) -> None:
    batch = new_batch()
    expected: dict[str, list[bytes]] = {}
    for seq, (which, offset) in enumerate(records):
        key = BTC._replace(product=f"P{which}")
        add(batch, key, seq, TS + offset)
        expected.setdefault(str(key), []).append(f'{{"p":"P{which}","seq":{seq}}}'.encode())
    sealed = batch.seal()
    found: dict[str, list[bytes]] = {}
    for part in sealed.objects:
        for line in part.lines:
            product = line.split(b'"')[3].decode()
            found.setdefault(str(BTC._replace(product=product)), []).append(line)
        for stream, span in part.entry.streams.items():
            assert span.count == sum(stream.endswith(x.split(b'"')[3].decode()) for x in part.lines)
    assert found == expected
    assert sealed.count == len(records)
    assert {k: h.position.seq for k, h in sealed.heads.items()} == {
        stream: int(lines[-1].split(b":")[-1][:-1]) for stream, lines in expected.items()
    }


def test_a_record_with_line_breaks_becomes_one_line_of_the_same_json() -> None:
    assert one_line(b'{"a":\r\n1}') == b'{"a":  1}'
    assert one_line(b'{"a":"\\n"}') == b'{"a":"\\n"}'
