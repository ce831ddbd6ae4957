"""A log that is bounded by its size: it is told when its oldest records go before their time."""

from __future__ import annotations

import asyncio

from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from services.common.observability.metrics import retention_gauge
from services.common.stream import LogSpec, Position, Record
from services.common.stream.nats.broker import NatsBroker
from services.common.stream.retention import RetentionWatch
from services.common.testing.conformance import BTC, LOG, PATIENCE_S, read_all, seqs
from tools.embedded import NatsServer

BODY = b"x" * 20_000
# 6 MB: more than the bound below.
COUNT = 300


async def test_a_log_at_its_bound_drops_its_oldest_and_says_that_its_retention_is_cut() -> None:
    spec = LogSpec(LOG, 3600, max_bytes=2_000_000)
    gauge = retention_gauge(CollectorRegistry())
    async with NatsServer() as server, NatsBroker([server.url]) as broker:
        await broker.ensure([spec])
        watch = RetentionWatch(broker, [spec], gauge)
        await watch.look()
        publisher = await broker.publisher()
        for n in range(1, COUNT + 1):
            await publisher.send(Record(BTC, BODY, Position(1, n)))
        async with asyncio.timeout(PATIENCE_S):
            await publisher.flush()
        await broker.ping()
        with capture_logs() as logs:
            await watch.look()
            await watch.look()
        [said] = [entry for entry in logs if entry["event"] == "retention_cut"]
        assert (said["log"], said["wanted_minutes"]) == ("raw", 60.0)
        assert gauge.labels("raw")._value.get() == 1
        held = seqs(await read_all(broker))
        assert held == list(range(held[0], COUNT + 1))
        assert len(held) * len(BODY) < spec.max_bytes
        # A larger bound is enough, and said too.
        larger = LogSpec(LOG, 3600, max_bytes=200_000_000)
        await broker.ensure([larger])
        with capture_logs() as logs:
            await watch.look()
        assert [entry["event"] for entry in logs] == ["retention_whole_again"]
        assert gauge.labels("raw")._value.get() == 0


async def test_a_bound_that_the_server_has_no_room_for_is_said_and_the_log_kept_without() -> None:
    async with NatsServer(max_file_store="40MB") as server, NatsBroker([server.url]) as broker:
        with capture_logs() as logs:
            await broker.ensure([LogSpec(LOG, 3600, max_bytes=100_000_000)])
        [said] = [entry for entry in logs if entry["event"] == "log_without_bound"]
        assert "insufficient storage" in said["reason"]
        await broker.publish(Record(BTC, BODY, Position(1, 1)))
        held = await broker.held(LOG)
        assert held is not None
        assert (held.max_bytes, held.size > len(BODY)) == (0, True)
        with capture_logs() as logs:
            await broker.ensure([LogSpec(LOG, 3600, max_bytes=20_000_000)])
        held = await broker.held(LOG)
        assert held is not None
        assert held.max_bytes == 20_000_000
        assert logs == []
