"""What a record takes: in the logs, on the way to a client, in the archive, as a latest row.

Of a capture of the venue (`CAPTURE=file.ndjson`), since sizes are the venue's own, or of a
simulated market, whose messages are alike. `tools/dev/sizing.py` reckons with these figures.
"""

from __future__ import annotations

import gzip
import os
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

import nats

from services.common.settings import CommonSettings
from services.common.stores.layout import RAW, TICKS
from services.common.stores.rows import row_to_item
from services.common.stores.s3 import S3Store
from services.common.stream.factory import open_broker
from services.common.subjects import CHANNELS, RAW_LOG, key_of, tick_log
from services.common.testing.proxy import Proxy
from services.gateway.websocket.rfc6455.deflate import Deflater
from services.gateway.websocket.rfc6455.frames import text_frame
from services.snapshotter.testing import SHARDS, SPECS, Platform
from tools.bench.registry import Run, bench
from tools.embedded import AwsServer, NatsServer
from tools.replay.capture import CaptureSource
from tools.replay.player import Player, Tempo
from tools.replay.records import Selection
from tools.replay.testing import (
    TickLogs,
    everything_archived,
    normalized,
    raw_log,
    record_market,
)

# A book's base holds the whole book: a few a day, of a megabyte each, and counted by themselves.
_BASE_BYTES = 20_000


@bench("sizes")
async def sizes(run: Run) -> None:
    """Bytes of a record in the logs, to a client, in the archive and as a row [CAPTURE=]."""
    capture = os.environ.get("CAPTURE")
    async with AsyncExitStack() as stack:
        aws = await stack.enter_async_context(AwsServer())
        server = await stack.enter_async_context(NatsServer())
        # The SDK takes credentials from the environment and from nowhere else.
        os.environ.update(aws.environment)
        settings = CommonSettings.model_validate({"nats_urls": server.url})
        proxy = Proxy(aws.port)
        await proxy.start()
        stack.push_async_callback(proxy.aclose)
        platform = await stack.enter_async_context(
            Platform(aws.url, proxy, lambda: open_broker(settings))
        )
        if capture:
            raw, ticks = await _play(platform, Path(capture))
        else:
            raw, ticks = await record_market(
                platform, products=("BTC-USD", "ETH-USD"), seconds=5 if run.quick else 60, rate=100
            )
        _note_logs(run, RAW, raw)
        _note_logs(run, TICKS, ticks)
        await _note_overhead(run, server.url, raw, ticks)
        await _note_archive(run, platform)
        await _note_rows(run, platform, list(ticks))


async def _play(platform: Platform, capture: Path) -> tuple[TickLogs, TickLogs]:
    async with (
        platform.snapshotter(archive_period_s=5) as service,
        platform.new_broker() as broker,
    ):
        await broker.ensure(SPECS)
        player = Player(broker, Tempo(0), publish=True, on_progress=lambda _ts, _count: None)
        await player.play(CaptureSource(capture, Selection()))
        ticks = await normalized(broker)
        await everything_archived(service, broker)
        return await raw_log(broker), ticks


def _note_logs(run: Run, kind: str, logs: TickLogs) -> None:
    for channel in CHANNELS:
        found = [
            payload
            for subject, payloads in logs.items()
            if key_of(subject).channel == channel
            for payload in payloads
        ]
        usual = [payload for payload in found if len(payload) < _BASE_BYTES]
        if not usual:
            continue
        text = f"{sum(map(len, usual)) / len(usual):.0f} bytes each"
        if kind == TICKS:
            frames = [text_frame(b'{"type":"incr","tick":%b}' % payload) for payload in usual]
            text += f", {sum(map(len, frames)) / len(frames):.0f} to a client"
            deflated = map(Deflater().frames, frames)
            text += f", {sum(map(len, deflated)) / len(frames):.0f} compressed"
        if len(usual) < len(found):
            most = max(map(len, found))
            text += f"; {len(found) - len(usual)} bases of {most:,} bytes at most"
        _note(run, f"{kind} {channel}", len(usual), text)


async def _note_overhead(run: Run, url: str, raw: TickLogs, ticks: TickLogs) -> None:
    """What JetStream's files take besides the payload: subject, headers, checksum."""
    client = await nats.connect(url)
    jetstream = client.jetstream()
    stored: Counter[str] = Counter()
    for name in (RAW_LOG, *(tick_log(shard) for shard in range(SHARDS))):
        stream = f"MARKET_{name.upper().replace('.', '_')}"
        stored[RAW if name == RAW_LOG else TICKS] += (
            await jetstream.stream_info(stream)
        ).state.bytes
    await client.close()
    for kind, logs in ((RAW, raw), (TICKS, ticks)):
        payloads = [payload for each in logs.values() for payload in each]
        over = (stored[kind] - sum(map(len, payloads))) / len(payloads)
        _note(run, f"{kind} in JetStream", len(payloads), f"{over:.0f} bytes more each")


async def _note_archive(run: Run, platform: Platform) -> None:
    stored: Counter[tuple[str, str]] = Counter()
    usual: Counter[tuple[str, str]] = Counter()
    async with S3Store(platform.aws) as store:
        for kind in (RAW, TICKS):
            async for key in store.walk(f"{kind}/"):
                what = kind, key.partition("channel=")[2].partition("/")[0]
                content = await store.get(key) or b""
                lines = [len(line) for line in gzip.decompress(content).splitlines()]
                small = [size for size in lines if size < _BASE_BYTES]
                # A base is compressed like the rest of its object.
                stored[what] += round(len(content) * sum(small) / sum(lines))
                usual[what] += len(small)
    for (kind, channel), count in usual.items():
        text = f"{stored[kind, channel] / count:.0f} bytes each"
        _note(run, f"{kind} {channel} archived", count, text)


async def _note_rows(run: Run, platform: Platform, subjects: list[str]) -> None:
    rows = await platform.latest.get_many([key_of(subject) for subject in subjects])
    for channel in CHANNELS:
        items = [row_to_item(row) for key, row in rows.items() if key.channel == channel]
        if items:
            most = max(
                sum(len(name) + len(next(iter(value.values()))) for name, value in item.items())
                for item in items
            )
            _note(run, f"row {channel}", len(items), f"{most:,} bytes at most")


def _note(run: Run, case: str, count: int, text: str) -> None:
    run.note(case, f"{count:,}: {text}")
