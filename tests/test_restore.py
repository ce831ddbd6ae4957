"""Table and broker are lost; the archive gives both back, by the operations guide's commands."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial

import pytest

from services.common.errors import StoreMissing
from services.common.settings import CommonSettings, child_environment
from services.common.stores.aws import READER, open_client
from services.common.stores.ports import LatestRow
from services.common.stores.s3 import S3Store
from services.common.stream import Broker, Position
from services.common.stream.factory import open_broker
from services.common.subjects import CHANNELS, StreamKey, raw_subject
from services.common.testing.proxy import Proxy
from services.common.testing.waiting import eventually
from services.common.wire import decode_raw
from services.ingestor.testing import running
from services.snapshotter.testing import SHARDS, Platform
from tools.embedded import AwsServer, NatsServer
from tools.replay.testing import normalized, raw_log, record
from tools.simulator import SimulatedExchange

PRODUCTS = ("BTC-USD", "ETH-USD")
KEYS = [StreamKey("coinbase", channel, product) for channel in CHANNELS for product in PRODUCTS]


def broker_on(server: NatsServer) -> Broker:
    return open_broker(CommonSettings.model_validate({"nats_urls": server.url}))


@asynccontextmanager
async def stores(server: AwsServer) -> AsyncIterator[Platform]:
    proxy = Proxy(server.port)
    await proxy.start()
    # uvloop waits for open listeners for ever when a loop is closed: a failed test would never end.
    try:
        async with Platform(server.url, proxy, lambda: pytest.fail("no broker yet")) as platform:
            yield platform
    finally:
        await proxy.aclose()


async def rows(platform: Platform) -> Mapping[StreamKey, tuple[Position, bytes, str | None]]:
    """What readers are given; place in the log and time of writing are those of the new log."""
    try:
        found = await platform.latest.get_many(KEYS)
    except StoreMissing:
        return {}

    def content(row: LatestRow) -> tuple[Position, bytes, str | None]:
        return row.position, row.state, row.checkpoint

    return {key: content(row) for key, row in found.items()}


async def archived(platform: Platform) -> tuple[list[bytes], list[bytes]]:
    return sorted(await platform.lines("raw/")), sorted(await platform.lines("ticks/"))


async def drop_table(platform: Platform) -> None:
    async with open_client("dynamodb", platform.aws, READER) as client:
        await client.delete_table(TableName=platform.aws.ddb_table)


async def empty_bucket(platform: Platform) -> None:
    async with S3Store(platform.aws) as store:
        for prefix in ("raw/", "ticks/", "index/", "checkpoints/"):
            while keys := await store.keys(prefix):
                await store.delete(keys)


async def mdf_replay(platform: Platform, server: NatsServer) -> dict[str, object]:
    """`mdf replay s3:// --speed 0`, as the guide has it."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tools.cli", "replay", "s3://", "--speed", "0"),
        stdout=asyncio.subprocess.PIPE,
        env=child_environment(
            {
                "NATS_URLS": server.url,
                "SHARD_COUNT": str(SHARDS),
                "S3_BUCKET": platform.aws.s3_bucket,
                "AWS_ENDPOINT_URL": str(platform.aws.aws_endpoint_url),
            }
        ),
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    summary: dict[str, object] = json.loads(output.splitlines()[-1])
    return summary


async def goes_on(platform: Platform, exchange: SimulatedExchange) -> None:
    """Ingestors take up where the replay ended: same epochs, and every trade of the outage."""
    exchange.advance(3)
    async with (
        platform.new_broker() as broker,
        running(broker, exchange.ws_url, exchange.rest_url, *PRODUCTS) as ingestor,
    ):

        async def connected() -> bool:
            exchange.advance(0.2)
            return bool(ingestor.feeds) and all(feed.connected for feed in ingestor.feeds)

        async def every_trade_is_there() -> bool:
            held, made = await trades_held(broker), trades_made(exchange)
            # The exchange knows older ones than it ever sent.
            return all(held[p] == made[p][-len(held[p]) :] for p in PRODUCTS)

        await eventually(connected)
        exchange.advance(1)
        await eventually(every_trade_is_there)
        for payloads in (await raw_log(broker)).values():
            assert len({decode_raw(payload).epoch for payload in payloads}) == 1


async def trades_held(broker: Broker) -> dict[str, list[int]]:
    found = {}
    for product in PRODUCTS:
        subject = raw_subject(StreamKey("coinbase", "trades", product))
        records = map(decode_raw, (await raw_log(broker))[subject])
        found[product] = [record.seq for record in records if record.kind == "frame"]
    return found


def trades_made(exchange: SimulatedExchange) -> dict[str, list[int]]:
    tapes = {product: exchange.state(product).tape for product in PRODUCTS}
    return {product: [trade.trade_id for trade in tape.all()] for product, tape in tapes.items()}


async def test_rows_come_back_from_the_logs_and_both_from_the_archive_alone(
    aws_server: AwsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in aws_server.environment.items():
        monkeypatch.setenv(name, value)
    async with (
        stores(aws_server) as platform,
        SimulatedExchange(products=PRODUCTS, rate=40, paced=False, seed=3) as exchange,
    ):

        async def rebuilt() -> bool:
            return await rows(platform) == before

        async with NatsServer() as lost:
            platform.new_broker = partial(broker_on, lost)
            raw, ticks = await record(platform, exchange, PRODUCTS, seconds=12)
            before = await rows(platform)
            assert before.keys() == set(KEYS)
            in_archive = await archived(platform)
            # The table alone: the logs have what it takes.
            await drop_table(platform)
            async with platform.snapshotter():
                await eventually(rebuilt)
            # The archive alone, likewise.
            await empty_bucket(platform)

            async def archived_again() -> bool:
                return await archived(platform) == in_archive

            async with platform.snapshotter():
                await eventually(archived_again)
        # Then the table, and the broker with its files.
        await drop_table(platform)

        async with NatsServer() as server:
            platform.new_broker = partial(broker_on, server)
            summary = await mdf_replay(platform, server)
            assert (summary["holes"], summary["already_in_log"]) == (0, 0)
            assert summary["published"] == sum(map(len, raw.values()))
            async with platform.snapshotter(), platform.new_broker() as broker:
                assert await normalized(broker) == ticks
                assert await raw_log(broker) == raw
                await eventually(rebuilt)
            # Nothing was archived a second time.
            assert await archived(platform) == in_archive
            await goes_on(platform, exchange)
