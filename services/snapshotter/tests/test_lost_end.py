"""A snapshotter, and a log that lost its end and got it back in another order."""

from __future__ import annotations

from copy import copy
from pathlib import Path

from services.common.settings import CommonSettings
from services.common.stream import Record
from services.common.stream.factory import open_broker
from services.common.subjects import StreamKey
from services.common.testing.lost_end import go_back, keep, settings_for
from services.common.testing.proxy import Proxy
from services.common.testing.tick_records import TickStream
from services.common.testing.waiting import eventually
from services.snapshotter.testing import SHARDS, Platform
from services.snapshotter.tests.test_snapshotter import (
    archive_is_complete,
    assert_archive_has_every_record_once,
    assert_rows_equal_an_independent_fold,
    rows_are_current,
)
from tools.embedded import AwsServer, NatsServer


async def test_a_place_in_the_log_is_not_gone_on_from_where_other_records_stand_there_by_now(
    nats_server: NatsServer, aws_server: AwsServer, proxy: Proxy, tmp_path: Path
) -> None:
    settings = CommonSettings.model_validate(settings_for(nats_server))
    # Of one product, so of one log.
    trades, ticker = (
        TickStream(StreamKey("coinbase", channel, "BTC-USD"), shard_count=SHARDS)
        for channel in ("trades", "ticker")
    )
    first = [trades.tick(), ticker.tick()]
    lost = [stream.tick() for _ in range(4) for stream in (trades, ticker)]
    so_far = copy(trades)
    so_far.records = list(trades.records)
    # The last that was archived stood where one of these will, and not the first of them.
    after = [trades.tick() for _ in range(8)]
    again = [record for record in lost if record.subject == trades.subject]
    again += [*after, *(record for record in lost if record.subject == ticker.subject)]

    async with Platform(aws_server.url, proxy, lambda: open_broker(settings)) as platform:

        async def publish(records: list[Record]) -> None:
            async with platform.publisher() as (_, publisher):
                for record in records:
                    # Alone, so that they stand in this order.
                    await publisher.durable(await publisher.send(record))

        await publish(first)
        kept = keep(nats_server, tmp_path)
        await publish(lost)
        async with platform.snapshotter():
            await eventually(lambda: rows_are_current(platform, [so_far, ticker]))
            await eventually(lambda: archive_is_complete(platform, [so_far, ticker]))
        await go_back(nats_server, kept)
        await publish(again)
        async with platform.snapshotter():
            await eventually(lambda: rows_are_current(platform, [trades, ticker]))
            await eventually(lambda: archive_is_complete(platform, [trades, ticker]))
        await assert_archive_has_every_record_once(platform, [trades, ticker])
        await assert_rows_equal_an_independent_fold(platform, [trades, ticker])
