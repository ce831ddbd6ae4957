"""`mdf replay` as it is typed, and its pure parts."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Iterable
from pathlib import Path

import pytest
import zstandard
from click.testing import CliRunner, Result

from services.common.subjects import StreamKey
from services.common.testing.raw_records import FIRST_TS, RawStream
from services.common.wire import RawRecord, decode_raw, encode
from tools.cli import main
from tools.embedded import NatsServer
from tools.recording import Recording
from tools.replay.archive import ArchiveSource, FolderObjects
from tools.replay.capture import raw_records
from tools.replay.player import Tempo
from tools.replay.records import BadSource, Ledger, Selection, read_line
from tools.simulator.market.market import MarketModel, ModelSettings

BTC = StreamKey("coinbase", "trades", "BTC-USD")
ETH = StreamKey("coinbase", "trades", "ETH-USD")


def replay(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(main, ["replay", *arguments], env=environment)


def trades(key: StreamKey, count: int) -> list[RawRecord]:
    stream = RawStream(key)
    stream.status("down")
    for trade_id in range(1, count):
        stream.match(trade_id)
        if trade_id % 5 == 0:
            stream.status()
    return stream.records


def batch(path: Path, records: Iterable[RawRecord]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(b"\n".join(map(encode, records)) + b"\n"))


def test_dry_run_says_what_would_be_done_and_needs_no_broker(tmp_path: Path) -> None:
    btc, eth = trades(BTC, 20), trades(ETH, 30)
    batch(tmp_path / "a.jsonl.gz", btc)
    batch(tmp_path / "b.jsonl.gz", eth)
    result = replay(
        str(tmp_path), "--dry-run", "--products", "ETH-USD", NATS_URLS="nats://127.0.0.1:1"
    )
    assert result.exit_code == 0, result.output
    assert "would publish to MARKET_RAW at nats://127.0.0.1:1 (does not answer" in result.output
    assert f"coinbase:trades:ETH-USD: {len(eth)} records" in result.output
    summary = json.loads(result.stdout.splitlines()[-1])
    assert (summary["records"], summary["published"], summary["streams"]) == (len(eth), 0, 1)
    assert (summary["holes"], summary["dry_run"]) == (0, True)


async def test_replay_goes_on_where_it_was_and_never_turns_a_log_back(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    records = trades(BTC, 200)
    middle = records[100].ts_recv
    batch(tmp_path / "a.jsonl.gz", records)

    async def run(*arguments: str) -> dict[str, object]:
        result = await asyncio.to_thread(
            replay, str(tmp_path), "--speed", "0", *arguments, NATS_URLS=nats_server.url
        )
        assert result.exit_code == 0, result.output
        summary: dict[str, object] = json.loads(result.stdout.splitlines()[-1])
        return summary

    first = await run("--to", str(middle))
    assert (first["published"], first["already_in_log"]) == (100, 0)
    again = await run()
    assert (again["published"], again["already_in_log"]) == (len(records) - 100, 100)
    looked = await run("--dry-run")
    assert (looked["published"], looked["already_in_log"]) == (0, len(records))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"no json\n", "line 1: bad_json"),
        (gzip.compress(b"{}\n", mtime=0), "is no batch of raw records"),
        (b"\x1f\x8bno gzip", "line 1: torn"),
        (gzip.compress(b'{"kind":1}\n', mtime=0), "not a raw record"),
    ],
)
def test_what_cannot_be_replayed_is_explained(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "recording"
    path.write_bytes(content)
    result = replay(str(path), "--dry-run", NATS_URLS="nats://127.0.0.1:1")
    assert result.exit_code == 1
    assert words in result.output


def test_a_source_that_does_not_exist_and_a_time_that_is_none_are_explained() -> None:
    assert "does not exist" in replay("/nowhere", "--dry-run").output
    assert "is no time" in replay("/nowhere", "--from", "yesterday").output


def test_tempo_keeps_the_recorded_distances_or_a_fraction_of_them() -> None:
    for speed, seconds in ((1.0, 3.0), (10.0, 0.3), (0.0, 0.0)):
        tempo = Tempo(speed)
        assert tempo.due(FIRST_TS) == 0
        assert tempo.due(FIRST_TS + 3_000_000) == pytest.approx(seconds)
        # Received before the first: due at once.
        assert tempo.due(FIRST_TS - 5) == 0


def test_ledger_finds_holes_also_where_only_a_status_is_missing() -> None:
    records = trades(BTC, 30)
    for missing in range(1, len(records) - 1):
        ledger = Ledger()
        for number, record in enumerate(records):
            if number != missing:
                ledger.add(read_line(encode(record)), already=False)
        assert ledger.holes == 1, records[missing]


def test_a_stream_that_goes_backwards_is_refused() -> None:
    ledger = Ledger()
    lines = [read_line(encode(record)) for record in trades(BTC, 3)]
    ledger.add(lines[1], already=False)
    with pytest.raises(BadSource, match="goes backwards"):
        ledger.add(lines[0], already=False)


async def test_streams_of_several_files_are_merged_by_receive_time(tmp_path: Path) -> None:
    for name, key in (("x", BTC), ("y", ETH)):
        records = trades(key, 50)
        batch(tmp_path / name / "1.jsonl.gz", records[:20])
        batch(tmp_path / name / "2.jsonl.gz", records[20:])
    source = ArchiveSource(FolderObjects(tmp_path), Selection())
    times = [recorded.ts async for recorded in source.records()]
    assert times == sorted(times)
    assert len(times) == 2 * len(trades(BTC, 50))


def market_frames(seconds: int) -> list[bytes]:
    model = MarketModel(ModelSettings(["BTC-USD", "ETH-USD"], rate=100), FIRST_TS)
    types = {"ticker", "match", "l2update", "heartbeat"}
    return [
        message.encoded()
        for message in model.advance(FIRST_TS + seconds * 1_000_000)
        if message.type in types
    ]


def recording(path: Path, frames: Iterable[bytes]) -> Recording:
    path.write_bytes(b"".join(frame + b"\n" for frame in frames))
    return Recording(path)


def test_a_capture_becomes_the_same_chained_records_every_time(tmp_path: Path) -> None:
    frames = market_frames(20)
    capture = recording(tmp_path / "capture", frames)
    records = list(raw_records(capture, Selection()))
    assert records == list(raw_records(capture, Selection()))
    ledger = Ledger()
    for recorded in records:
        ledger.add(recorded, already=False)
    assert ledger.holes == 0
    bodies = {bytes(decode_raw(recorded.payload).body) for recorded in records}
    assert {frame for frame in frames if b'"match"' in frame} <= bodies


def test_trades_that_a_capture_lacks_become_a_recorded_gap(tmp_path: Path) -> None:
    frames = market_frames(20)
    matches = [n for n, frame in enumerate(frames) if b'"match"' in frame and b"BTC-USD" in frame]
    del frames[matches[3]]
    capture = recording(tmp_path / "capture", frames)
    records = list(raw_records(capture, Selection(products=frozenset({"BTC-USD"}))))
    gaps = [decode_raw(each.payload) for each in records if b'"kind":"gap"' in each.payload]
    assert [gap.channel for gap in gaps] == ["trades"]
    assert {each.key.product for each in records} == {"BTC-USD"}


def test_a_torn_packed_capture_is_replayed_as_far_as_it_goes_and_what_was_left_out_is_told(
    tmp_path: Path,
) -> None:
    frames = market_frames(5)
    path = tmp_path / "capture.zst"
    lines = [b"2026-07-07T22:59:24.5Z\t" + frame for frame in frames]
    lines[3:3] = [b"nonsense", b"# reconnected", b'{"type":"subscribe","product_ids":[]}']
    path.write_bytes(zstandard.compress(b"\n".join(lines))[:-20])
    result = replay(str(path), "--dry-run", NATS_URLS="nats://127.0.0.1:1")
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout.splitlines()[-1])
    assert summary["records"] > 0
    assert summary["left_out"] | {"torn": 1} == {"bad_json": 1, "sent": 1, "torn": 1}
    assert "left out: " in result.output
    # When it was received, not when it happened.
    assert str(summary["from"]).startswith("2026-07-07T22:59:24.500")


def test_a_frame_that_cannot_be_read_makes_the_book_suspect_and_is_told(tmp_path: Path) -> None:
    frames = market_frames(5)
    snapshot = b'{"type":"snapshot","product_id":"BTC-USD","bids":[["1","1"]],"asks":[["9","1"]]}'
    first = next(n for n, each in enumerate(frames) if b'"l2update"' in each and b"BTC" in each)
    odd = frames[first].replace(b'"changes":[[', b'"changes":[["buy","1","0.-10000"],[')
    good = [snapshot, *frames[: first + 1]]
    capture = recording(tmp_path / "capture", [*good, odd, *frames[first + 1 :]])
    books = Selection(products=frozenset({"BTC-USD"}), channels=frozenset({"book"}))
    records = [decode_raw(each.payload) for each in raw_records(capture, books)]
    assert sum(capture.left_out.values()) == 1
    assert any(
        b"cannot be read" in bytes(record.body) for record in records if record.kind == "status"
    )
