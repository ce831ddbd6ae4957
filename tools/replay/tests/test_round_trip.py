"""A market is recorded, archived, replayed into a fresh log: the ticks are the same bytes.

`REPLAY_S=3600` makes it an hour of market time (`make bench-replay`).
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest

from services.common.settings import CommonSettings
from services.common.stores.s3 import S3Store
from services.common.stream import Broker
from services.common.stream.factory import open_broker
from services.common.stream.nats.broker import NatsBroker
from services.snapshotter.testing import SPECS, Platform
from tools.embedded import NatsServer
from tools.replay.archive import ArchiveSource, FolderObjects, S3Objects
from tools.replay.player import Player, Tempo
from tools.replay.records import Selection
from tools.replay.testing import TickLogs, normalized, raw_log, record_market

PRODUCTS = ("BTC-USD", "ETH-USD", "SOL-USD")
SECONDS = int(os.environ.get("REPLAY_S", "40"))
RATE = 100.0


async def download(platform: Platform, folder: Path) -> None:
    """The raw archive as files, named as in the bucket."""
    async with S3Store(platform.aws) as store:
        async for key in store.walk("raw/"):
            content = await store.get(key)
            assert content is not None
            (folder / key).parent.mkdir(parents=True, exist_ok=True)
            (folder / key).write_bytes(content)


def assert_same(found: TickLogs, expected: TickLogs) -> None:
    assert found.keys() == expected.keys()
    for subject, payloads in expected.items():
        assert found[subject] == payloads, subject


def player(broker: Broker) -> Player:
    return Player(broker, Tempo(0), publish=True, on_progress=lambda _ts, _count: None)


@pytest.mark.timeout(7200 if SECONDS > 120 else 300)
async def test_replayed_archive_gives_the_same_ticks_byte_for_byte(
    platform: Platform, nats_server: NatsServer, tmp_path: Path
) -> None:
    settings = CommonSettings.model_validate({"nats_urls": nats_server.url})
    if SECONDS > 120:
        # An hour of ticks is too much for a process's memory.
        platform.new_broker = lambda: open_broker(settings)
    began = time.monotonic()

    def tell(second: int) -> None:
        if SECONDS > 120 and second % 300 == 0:
            print(f"{second} s recorded after {time.monotonic() - began:.0f} s", file=sys.stderr)

    raw, ticks = await record_market(
        platform, products=PRODUCTS, seconds=SECONDS, rate=RATE, on_second=tell
    )
    recorded_in = time.monotonic() - began
    await download(platform, tmp_path)
    count = sum(map(len, raw.values()))
    # A hole was found, told, and healed by a new book.
    assert any(b'"cause":"gap"' in payload for payloads in ticks.values() for payload in payloads)
    kinds = {kind for payloads in ticks.values() for kind in map(kind_of, payloads)}
    assert kinds == {"tick", "reset", "status"}

    sources = {"bucket": platform.aws, "folder": None}
    for name, aws in sources.items():
        async with (
            NatsServer() as fresh,
            NatsBroker([fresh.url]) as broker,
            S3Store(aws or platform.aws) as store,
        ):
            await broker.ensure(SPECS)
            objects = S3Objects(store) if aws is not None else FolderObjects(tmp_path)
            replaying = player(broker)
            began = time.monotonic()
            await replaying.play(ArchiveSource(objects, Selection()))
            seconds = time.monotonic() - began
            assert (replaying.published, replaying.ledger.holes) == (count, 0)
            assert_same(await raw_log(broker), raw)
            assert_same(await normalized(broker), ticks)
            # Once more changes nothing: the log is where the recording ends.
            again = player(broker)
            await again.play(ArchiveSource(objects, Selection()))
            assert (again.published, again.ledger.already) == (0, count)
        print(
            json.dumps(
                {
                    "market_s": SECONDS,
                    "source": name,
                    "raw_records": count,
                    "ticks": sum(map(len, ticks.values())),
                    "recorded_in_s": round(recorded_in, 1),
                    "replayed_in_s": round(seconds, 1),
                    "records_per_s": round(count / seconds),
                }
            ),
            file=sys.stderr,
        )


def kind_of(payload: bytes) -> str:
    """Of `{"type":"tick",...`, without decoding an hour of records."""
    return payload.split(b'"', 4)[3].decode()
