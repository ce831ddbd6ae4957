"""`from_seq` beyond the log, with the log on nats-server and the archive behind a real S3 API."""

from __future__ import annotations

import gzip
import time

import nats
import pytest

from services.common.settings import AwsSettings
from services.common.stores.index import Head, IndexedObject, Span, next_commit, pack_commit
from services.common.stores.layout import commit_key, pending_key
from services.common.stores.s3 import S3Store
from services.common.stores.s3_archive import S3ArchiveReader
from services.common.stream.nats.broker import NatsBroker
from services.common.subjects import tick_log
from services.gateway.chain.stream_record import StreamRecord
from services.gateway.testing import Market, bench
from tools.embedded import AwsServer, NatsServer

PER_OBJECT = 400


async def archive(store: S3Store, market: Market) -> None:
    """Write all that was published as the snapshotter does: objects, and an index of them."""
    log = tick_log(market.shard)
    commit = None
    for start in range(0, len(market.records), PER_OBJECT):
        lines = market.records[start : start + PER_OBJECT]
        places = [StreamRecord(line).position for line in lines]
        span = Span(places[0], Head(places[-1], ""), len(lines))
        entry = IndexedObject(f"ticks/{start:06d}.jsonl.gz", {str(market.key): span})
        await store.put(entry.key, gzip.compress(b"\n".join(lines) + b"\n"), "application/gzip")
        commit = next_commit(log, commit, [entry], time.time_ns() // 1000)
        for name in (commit_key(log, commit.number), pending_key(log)):
            await store.put(name, pack_commit(commit), "application/gzip")


async def test_archive_log_and_live_records_are_one_chain(
    nats_server: NatsServer, aws_server: AwsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in aws_server.environment.items():
        monkeypatch.setenv(name, value)
    aws = AwsSettings()

    def broker() -> NatsBroker:
        return NatsBroker((nats_server.url,), prefix="MARKET")

    async with (
        S3Store(aws) as store,
        bench(broker(), broker(), archive=S3ArchiveReader(store), window_bytes=20_000) as gateway,
        await nats.connect(nats_server.url) as connection,
    ):
        await store.client.create_bucket(Bucket=aws.s3_bucket)
        market = gateway.market()
        await market.publish(market.status())
        await market.ticks(1500)
        await archive(store, market)
        await market.ticks(500)
        # The log forgets two thirds of it, part of which the archive has as well.
        jetstream = connection.jetstream()
        stream = f"MARKET_TICK_{market.shard}"
        await jetstream.purge_stream(stream, seq=1300)
        chain = market.chain
        async with gateway.client() as live, gateway.client() as late:
            await live.send(type="subscribe", product="BTC-USD", from_seq=0)
            begin = await live.of("backfill")
            assert begin["complete"]
            await late.send(type="subscribe", product="BTC-USD", from_seq=chain[700])
            await live.reach(market)
            await market.ticks(50)
            await late.reach(market)
            await live.reach(market)
        assert live.seen[str(market.key)] == market.chain
        assert late.seen[str(market.key)] == market.chain[701:]
        assert live.breaks == late.breaks == []
