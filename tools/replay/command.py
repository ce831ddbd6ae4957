"""`mdf replay`: see the package."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import sys
import time
import zlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import uvloop

from services.common.errors import BrokerError, PlatformError
from services.common.observability.telemetry import configure_logging
from services.common.settings import AwsSettings, CommonSettings, load_or_exit
from services.common.stores.s3 import S3Store
from services.common.stream import Broker
from services.common.stream.factory import open_broker
from services.common.stream.specs import log_specs
from services.common.subjects import CHANNELS, RAW_LOG, jetstream_name
from tools.options import ProductList
from tools.replay.archive import ArchiveSource, FolderObjects, S3Objects
from tools.replay.capture import CaptureSource
from tools.replay.player import Player, Tempo, progress_bar
from tools.replay.records import BadSource, Selection, Source

_LOOK_TIMEOUT_S = 3.0


class Moment(click.ParamType[int]):
    """`2026-09-21T15:00:00Z` (UTC unless it says otherwise) or microseconds since the epoch."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        if str(value).isdigit():
            return int(value)
        try:
            moment = datetime.fromisoformat(str(value))
        except ValueError:
            self.fail(f"{value!r} is no time such as 2026-09-21T15:00:00Z", param, ctx)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return round(moment.timestamp() * 1_000_000)


@click.command(context_settings={"show_default": True})
@click.argument("source", envvar="SOURCE")
@click.option("--from", "start", type=Moment(), help="Receive time of the first record, UTC.")
@click.option("--to", "end", type=Moment(), help="Receive time before which the last one came.")
@click.option("--products", type=ProductList(), help="Only these, comma-separated.")
@click.option(
    "--channel",
    "channels",
    multiple=True,
    type=click.Choice(CHANNELS),
    help="Only this one; may be given several times.",
)
@click.option(
    "--speed",
    default=1.0,
    type=click.FloatRange(min=0),
    help="How many times faster than recorded; 0 is as fast as the log takes it.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be done, and publish nothing.")
def replay(
    source: str,
    start: int | None,
    end: int | None,
    products: tuple[str, ...] | None,
    channels: tuple[str, ...],
    speed: float,
    dry_run: bool,
) -> None:
    """Publish recorded raw records to the raw log again.

    SOURCE is s3:// (the archive in S3_BUCKET), s3://BUCKET, a folder of raw batches, one .jsonl.gz
    batch, or a capture (one venue message a line, with or without a receive time, plain, gzip or
    zstd). The log is the one that the services' variables name: BROKER_KIND, NATS_URLS, REDIS_URL,
    STREAM_NAME and so on. The same records give the same ticks, byte for byte. To keep them apart
    from a platform that runs, give another NATS server or account, or another STREAM_NAME on Redis.

    What the log holds already, or is beyond, is passed over, so an interrupted replay can be run
    again. Prints one JSON line at the end.
    """
    configure_logging("replay", "WARNING", "console")
    selection = Selection(frozenset(products or ()), frozenset(channels), start, end)
    settings = load_or_exit(CommonSettings)
    try:
        result = uvloop.run(_replay(source, selection, speed, settings, dry_run=dry_run))
    except (BadSource, PlatformError, OSError) as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        # What was sent until now is in the log; the next run goes on from there.
        raise SystemExit(130) from None
    click.echo(json.dumps(result))


async def _replay(
    name: str,
    selection: Selection,
    speed: float,
    settings: CommonSettings,
    *,
    dry_run: bool,
) -> dict[str, object]:
    async with _source(name, selection) as source, _broker(settings, dry_run=dry_run) as broker:
        span = await source.span()
        target = _target(settings)
        if dry_run:
            reach = "" if broker is not None else " (does not answer; taken for empty)"
            _say(f"would publish to {target}{reach}")
        else:
            _say(f"publishing to {target}")
        began = time.monotonic()
        with progress_bar(span, speed if not dry_run else 0.0) as reached:
            player = Player(broker, Tempo(speed), publish=not dry_run, on_progress=reached)
            await player.play(source)
        seconds = time.monotonic() - began
        left_out = dict(source.left_out)
    if left_out:
        _say(f"left out: {', '.join(f'{count} {why}' for why, count in left_out.items())}")
    _report(player, speed, dry_run=dry_run)
    ledger = player.ledger
    return {
        "source": name,
        "target": target,
        "dry_run": dry_run,
        "streams": len(ledger.streams),
        "records": ledger.records,
        "bytes": ledger.bytes,
        "published": player.published,
        "already_in_log": ledger.already,
        "holes": ledger.holes,
        "left_out": left_out,
        "from": _text(ledger.first_ts),
        "to": _text(ledger.last_ts or None),
        "speed": speed,
        "seconds": round(seconds, 3),
    }


@contextlib.asynccontextmanager
async def _source(name: str, selection: Selection) -> AsyncIterator[Source]:
    if name.startswith("s3://"):
        aws = load_or_exit(AwsSettings)
        bucket = name.removeprefix("s3://").strip("/")
        if "/" in bucket:
            raise BadSource(f"{name}: expected s3://BUCKET; choose by --from, --to, --channel")
        if bucket:
            aws = aws.model_copy(update={"s3_bucket": bucket})
        async with S3Store(aws) as store:
            yield ArchiveSource(S3Objects(store), selection)
        return
    yield _local(Path(name), selection)


def _local(path: Path, selection: Selection) -> Source:
    if not path.exists():
        raise BadSource(f"{path} does not exist")
    if path.is_dir() or _is_batch(path):
        return ArchiveSource(FolderObjects(path), selection)
    return CaptureSource(path, selection)


def _is_batch(path: Path) -> bool:
    """Whether this is a packed batch of raw records, and not a packed capture."""
    with path.open("rb") as file:
        if file.read(2) != b"\x1f\x8b":
            return False
    with gzip.open(path) as content:
        try:
            return b'"kind"' in content.readline(4096)
        except (EOFError, zlib.error):
            # It was not closed; the recording's reader knows what to do with that.
            return False


@contextlib.asynccontextmanager
async def _broker(settings: CommonSettings, *, dry_run: bool) -> AsyncIterator[Broker | None]:
    """The broker, open; None when it is only looked at and does not answer."""
    broker = open_broker(settings)
    try:
        try:
            async with asyncio.timeout(_LOOK_TIMEOUT_S if dry_run else None):
                await broker.open()
                await broker.ping()
        except (TimeoutError, BrokerError):
            if not dry_run:
                raise
            yield None
            return
        if not dry_run:
            await broker.ensure(log_specs(settings))
        yield broker
    finally:
        await broker.aclose()


def _report(player: Player, speed: float, *, dry_run: bool) -> None:
    ledger = player.ledger
    if not ledger.records:
        _say("nothing there for this selection")
        return
    recorded = (ledger.last_ts - (ledger.first_ts or 0)) / 1e6
    verb = "would publish" if dry_run else "published"
    new = ledger.records - ledger.already if dry_run else player.published
    _say(f"{verb} {new} of {ledger.records} records ({ledger.bytes / 1e6:.1f} MB)")
    _say(f"recorded from {_text(ledger.first_ts)} to {_text(ledger.last_ts)} ({recorded:.1f} s)")
    if dry_run and speed:
        _say(f"which takes {recorded / speed:.1f} s at {speed:g} times the recorded pace")
    if ledger.already:
        _say(f"{ledger.already} were in the log already, or behind where its streams are")
    for key, count in sorted(ledger.streams.items()):
        holes = f", {count.holes} holes" if count.holes else ""
        _say(f"  {key}: {count.records} records{holes}")


def _target(settings: CommonSettings) -> str:
    if settings.broker_kind == "nats":
        urls = ",".join(url.rpartition("@")[2] for url in settings.nats_urls)
        return f"{jetstream_name(settings.js_stream_name, RAW_LOG)} at {urls}"
    if settings.broker_kind == "redis":
        # A password stands before the @.
        return f"{settings.stream_name} at {settings.redis_url.rpartition('@')[2]}"
    return "this process's memory"


def _text(ts: int | None) -> str | None:
    if ts is None:
        return None
    return datetime.fromtimestamp(ts / 1e6, UTC).isoformat(timespec="milliseconds")


def _say(text: str) -> None:
    print(text, file=sys.stderr)
