"""What others put into the logs costs no record of ours."""

from __future__ import annotations

from services.common.stream import Position, Publisher, Record
from services.common.stream.memory.broker import MemoryBroker
from services.common.subjects import (
    raw_subject,
    tick_log,
)
from services.common.testing.waiting import eventually
from services.snapshotter import metrics
from services.snapshotter.app import Snapshotter
from services.snapshotter.testing import Platform
from services.snapshotter.tests.test_snapshotter import (
    archive_is_complete,
    assert_archive_has_every_record_once,
    assert_rows_equal_an_independent_fold,
    new_streams,
    publish_some,
    rows_are_current,
)


async def test_what_others_put_on_subjects_of_no_stream_is_left_out_and_ends_nobody(
    platform: Platform,
) -> None:
    streams = new_streams()
    async with platform.publisher() as (broker, publisher):
        assert isinstance(broker, MemoryBroker)

        def append(subject: str) -> None:
            # A publisher of ours would refuse it.
            log = broker.log(tick_log(0))
            assert log.append(Record(subject, b"odd", Position(0, 1)), broker.server.clock())

        append("market.tick.0.strange")
        async with platform.snapshotter() as service:
            await publish_some(publisher, streams, rounds=1)
            append("market.tick.0.coinbase.ticker.BTC USD")
            await publish_some(publisher, streams, rounds=1)
            await eventually(lambda: rows_are_current(platform, streams))
            await eventually(lambda: archive_is_complete(platform, streams))
            await eventually(lambda: _acked(service))
    await assert_archive_has_every_record_once(platform, streams)


NO_TEXT = b'{"type":"tick","venue":"\xff","kind":"\xff","line":"\xff"}'
TOO_DEEP = b'{"x":' * 5000 + b"1" + b"}" * 5000


# Its archive object could not be named.
NO_TIME = (
    b'{"type":"status","v":1,"kind":"status","venue":"coinbase","channel":"ticker","product":"A",'
    b'"shard":0,"epoch":1,"seq":1,"sub":1,"prev":null,"state":"live","since":1,"evidence":"feed",'
    b'"line":"a","body":{},"ts_ingest":18446744073709551615,"ts_recv":18446744073709551615}'
)


async def test_bytes_that_nobody_can_read_are_counted_and_cost_no_other_record(
    broker_platform: Platform,
) -> None:
    platform, streams = broker_platform, new_streams()
    before = _undecodable()

    async def odd(publisher: Publisher) -> None:
        for stream in streams[:3]:
            for n, payload in enumerate((NO_TEXT, TOO_DEEP, NO_TIME)):
                position = Position(stream.epoch, stream.seq, stream.sub + 500 + n)
                await publisher.send(Record(stream.subject, payload, position))
                raw = Record(raw_subject(stream.key), payload, position)
                await publisher.send(raw)

    async with platform.publisher() as (_, publisher):
        await publish_some(publisher, streams, rounds=1)
        await odd(publisher)
        async with platform.snapshotter() as service:
            await publish_some(publisher, streams, rounds=1)
            await odd(publisher)
            await publish_some(publisher, streams, rounds=1)
            await eventually(lambda: rows_are_current(platform, streams))
            await eventually(lambda: archive_is_complete(platform, streams))
            await eventually(lambda: _acked(service))
    assert _undecodable() - before >= 6
    await assert_rows_equal_an_independent_fold(platform, streams)
    await assert_archive_has_every_record_once(platform, streams)


def _undecodable() -> float:
    return float(metrics.INVALID.labels("undecodable")._value.get())


async def _acked(service: Snapshotter) -> bool:
    return all(
        [await pump._subscription.lag() == 0 for pump in service.pumps if pump._subscription]
    )
