"""The queries of docs/archive.md, run by DuckDB over an archive that the snapshotter wrote."""

from __future__ import annotations

import gzip
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest

from services.common.subjects import StreamKey
from services.common.testing.tick_records import TickStream
from services.common.testing.waiting import eventually
from services.common.wire import Tick, decode_record
from services.snapshotter.testing import SHARDS, Platform

ROOT = Path(__file__).resolve().parents[3]
_DUCKDB = (ROOT / "docs" / "archive.md").read_text().split("## Athena")[0]
WHAT_IS_THERE, HOLES, CANDLES = re.findall(r"```sql\n(.*?)```", _DUCKDB, re.DOTALL)


@pytest.fixture
async def streams(platform: Platform, tmp_path: Path) -> list[TickStream]:
    """What was archived; the objects are files below `tmp_path`, named as in the bucket."""
    made = [
        TickStream(StreamKey("coinbase", channel, product), shard_count=SHARDS)
        for channel in ("ticker", "trades", "book")
        for product in ("BTC-USD", "ETH-USD")
    ]

    async def archived() -> bool:
        return len(await platform.lines("ticks/")) == sum(len(stream.records) for stream in made)

    async with platform.snapshotter(), platform.publisher() as (_, publisher):
        for _ in range(2):
            for stream in made:
                for record in [*stream.many(60), stream.reset(), stream.status(), stream.tick()]:
                    await publisher.send(record)
            await publisher.flush()
            await eventually(archived)
    async for key in platform.store.walk("ticks/"):
        (tmp_path / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / key).write_bytes(await platform.store.get(key) or b"")
    return made


def run(sql: str, folder: Path) -> list[tuple[Any, ...]]:
    with duckdb.connect() as connection:
        return connection.execute(sql.replace("'ticks/", f"'{folder}/ticks/")).fetchall()


def ticks_of(stream: TickStream) -> list[Tick]:
    decoded = (decode_record(record.payload) for record in stream.records)
    return [record for record in decoded if isinstance(record, Tick)]


async def test_what_is_there_is_counted(streams: list[TickStream], tmp_path: Path) -> None:
    trades = [stream for stream in streams if stream.key.channel == "trades"]
    expected = []
    for stream in trades:
        seqs = [tick.seq for tick in ticks_of(stream)]
        expected.append((stream.key.product, len(seqs), min(seqs), max(seqs)))
    assert run(WHAT_IS_THERE, tmp_path) == expected


async def test_holes_are_found_and_an_archive_without_holes_gives_none(
    streams: list[TickStream], tmp_path: Path
) -> None:
    assert run(HOLES, tmp_path) == []
    torn = TickStream(StreamKey("coinbase", "ticker", "SOL-USD"), shard_count=1)
    lines = [torn.tick().payload for _ in range(5)]
    del lines[2]
    folder = tmp_path / "ticks/v=1/venue=coinbase/channel=ticker/date=2026-09-21/hour=15/shard=0"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "torn.jsonl.gz").write_bytes(gzip.compress(b"\n".join(lines)))
    seqs = [record.position.seq for record in torn.records]
    assert run(HOLES, tmp_path) == [("coinbase", "ticker", "SOL-USD", seqs[3], seqs[2], seqs[1])]


async def test_candles_are_those_of_the_trades(streams: list[TickStream], tmp_path: Path) -> None:
    found = {row[0]: row[2:] for row in run(CANDLES, tmp_path)}
    for stream in streams:
        if stream.key.channel != "trades":
            continue
        trades = [tick.fields.last_trade for tick in ticks_of(stream)]
        prices = [Decimal(trade.price) for trade in trades if trade is not None]
        volume = sum(Decimal(trade.size) for trade in trades if trade is not None)
        assert found[stream.key.product] == (
            prices[0],
            max(prices),
            min(prices),
            prices[-1],
            volume,
            len(prices),
        )
