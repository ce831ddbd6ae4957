"""Two normalizers of one group, and a broker that lost the end of its logs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.common.errors import BrokerUnavailable
from services.common.runtime import Stop
from services.common.settings import CommonSettings
from services.common.stream import Position, Publisher, Record
from services.common.stream.factory import open_broker
from services.common.stream.specs import log_specs
from services.common.subjects import PULSE, StreamKey, tick_subject
from services.common.testing.conformance import read_all
from services.common.testing.lost_end import Server, go_back, keep, settings_for
from services.common.testing.raw_records import RawStream, raw_message
from services.common.testing.waiting import eventually
from services.common.wire import RawRecord
from services.normalizer.app import App
from services.normalizer.metrics import Metrics
from services.normalizer.normalize import Normalizer
from services.normalizer.predecessor import predecessor
from services.normalizer.settings import NormalizerSettings
from tools.embedded import NatsServer, ValkeyServer, free_port

KEY = StreamKey("coinbase", "trades", "BTC-USD")
SUBJECT = tick_subject(0, KEY)
PULSES = tick_subject(0, StreamKey("coinbase", PULSE, "line-1"))


@pytest.fixture(params=[NatsServer, ValkeyServer])
async def server(request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    async with request.param() as found:
        yield found


@contextlib.asynccontextmanager
async def running(server: Server) -> AsyncIterator[None]:
    """A normalizer as deployed, until the block is left."""
    settings = NormalizerSettings(
        **settings_for(server),
        shard_count=1,
        http_host="127.0.0.1",
        http_port=free_port(),
    )
    stop = Stop()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(App(settings, open_broker(settings), Metrics()).serve(stop))
        yield
        stop.request("test")


async def _publish(publisher: Publisher, records: list[RawRecord]) -> None:
    for record in records:
        await publisher.send(raw_message(record))
    await publisher.flush()


@pytest.mark.parametrize("trades", [20, 21], ids=["then quiet", "then a trade"])
async def test_what_one_that_is_gone_had_written_is_made_again_from_the_raw_log(
    server: Server, tmp_path: Path, trades: int
) -> None:
    """The other may write nothing above it: not what it wrote before, and nothing new."""
    settings = CommonSettings(**settings_for(server), shard_count=1)
    stream = RawStream(KEY)
    records = [stream.match(number) for number in range(1, trades + 1)]
    async with open_broker(settings) as broker:
        await broker.ensure(log_specs(settings))

        async def stored(count: int) -> bool:
            return len(await read_all(broker, SUBJECT)) == count

        raw = await broker.publisher()
        async with running(server):
            await _publish(raw, records[:5])
            await eventually(lambda: stored(5))
            kept = keep(server, tmp_path)
            await _publish(raw, records[5:10])
            await eventually(lambda: stored(10))
        async with running(server):
            await _publish(raw, records[10:20])
            await eventually(lambda: stored(20))
            await go_back(server, kept)
            await _publish(raw, records[20:])
            await eventually(lambda: stored(trades), despite=BrokerUnavailable)
        found = await read_all(broker, SUBJECT)
        normalizer = Normalizer(1)
        undisturbed = [normalizer.normalize(KEY, each).records[0].payload for each in records]
        assert [message.payload for message in found] == undisturbed


@pytest.mark.parametrize(
    ("record", "before"),
    [
        (Record(SUBJECT, b'{"prev":null}', Position(7, 4)), None),
        (Record(SUBJECT, b'{"type":"tick","prev":3}', Position(7, 4)), Position(7, 3)),
        (Record(SUBJECT, b'{"type":"status"}', Position(7, 4, 2)), Position(7, 4)),
        (Record(SUBJECT, b'{"type":"status"}', Position(7, 0, 2)), None),
        (Record(PULSES, b"{}", Position(7, 4, 2)), None),
    ],
)
def test_a_record_says_what_stands_before_it(record: Record, before: Position | None) -> None:
    assert predecessor(record) == before
