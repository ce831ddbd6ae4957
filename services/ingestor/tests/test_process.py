"""`python -m services.ingestor` as it is deployed: killed, started again, asked over HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.common.settings import child_environment
from services.common.stream import Broker, LogSpec
from services.common.stream.nats.broker import NatsBroker
from services.common.testing.nats_cluster import fill, make_room
from services.ingestor.testing import eventually, raw_records
from tools.embedded import NatsServer, free_port
from tools.simulator import SimulatedExchange
from tools.stack.process import Process

PRODUCT = "BTC-USD"


class Service(Process):
    """One ingestor's process; what it writes goes to `log`."""

    def __init__(self, log: Path, variables: Mapping[str, str]) -> None:
        super().__init__(
            log.stem,
            "services.ingestor",
            port=free_port(),
            log_dir=log.parent,
            ready_path="/readyz",
            environment=lambda port: child_environment({**variables, "HTTP_PORT": str(port)}),
        )

    async def stopped(self) -> int:
        """End it by SIGTERM; its status. One that does not end is killed after 30 s."""
        await self.stop()
        return await self.wait()


@asynccontextmanager
async def service(
    nats: NatsServer, exchange: SimulatedExchange, log: Path, **variables: str
) -> AsyncIterator[Service]:
    environment = {
        "BROKER_KIND": "nats",
        "NATS_URLS": nats.url,
        "COINBASE_WS_PRIMARY": exchange.ws_url,
        "COINBASE_REST_URL": exchange.rest_url,
        "COINBASE_PRODUCTS": f"{PRODUCT},ETH-USD",
        "HTTP_HOST": "127.0.0.1",
        "SHARD_COUNT": "1",
        "ADMIN_API_KEY": "key",
        "LOG_FORMAT": "json",
        **variables,
    }
    running = Service(log, environment)
    await running.spawn()
    try:
        yield running
    finally:
        await running.kill()


@pytest.fixture
async def broker(nats_server: NatsServer) -> AsyncIterator[Broker]:
    async with NatsBroker([nats_server.url], prefix="MARKET") as broker:
        yield broker


async def test_a_killed_ingestor_comes_back_with_every_trade_once_and_in_order(
    nats_server: NatsServer, broker: Broker, tmp_path: Path
) -> None:
    async with SimulatedExchange(products=(PRODUCT, "ETH-USD"), rate=400) as exchange:
        for round_ in range(3):
            async with service(nats_server, exchange, tmp_path / f"{round_}.log") as ingestor:
                await ingestor.ready()
                before = exchange.state(PRODUCT).sequence
                await eventually(
                    lambda: exchange.state(PRODUCT).sequence >= before + 200,  # noqa: B023 - awaited here
                    "the market moved on",
                )
                if round_ < 2:
                    await ingestor.kill()
                else:
                    assert await ingestor.stopped() == 0, ingestor.log_file.read_text()
        for product in (PRODUCT, "ETH-USD"):
            records = await raw_records(broker, "trades", product)
            seqs = [record.seq for record in records if record.kind == "frame"]
            assert seqs == list(range(seqs[0], seqs[-1] + 1))
            causes = [record for record in records if b"(restart)" in bytes(record.body)]
            assert causes, "what happened between two lives was filled"
            for channel in ("trades", "ticker", "book"):
                held = None
                for record in await raw_records(broker, channel, product):
                    assert record.prev == held
                    held = record.seq if record.kind != "status" else held
            last = (await raw_records(broker, "trades", product))[-1]
            assert json.loads(bytes(last.body))["evidence"] == "ingestor stopped"


async def test_the_feeds_are_shown_and_guarded(nats_server: NatsServer, tmp_path: Path) -> None:
    async with (
        SimulatedExchange(products=(PRODUCT, "ETH-USD")) as exchange,
        service(nats_server, exchange, tmp_path / "ingestor.log") as ingestor,
        httpx.AsyncClient(base_url=ingestor.url) as client,
    ):
        await ingestor.ready()

        async def feed_now() -> dict[str, Any]:
            (found,) = (await client.get("/feeds")).json()["feeds"]
            return dict(found)

        async def live() -> bool:
            # Ready is the connection; each stream is live once it has heard something.
            found = await feed_now()
            trades = found["products"][PRODUCT]["trades"]
            return (found["state"], trades["state"]) == ("active", "live")

        async def rebased() -> bool:
            return bool((await feed_now())["products"][PRODUCT]["book"]["resyncs"] == 2)

        await eventually(live, "live")
        feed = await feed_now()
        assert feed["endpoint"] == exchange.ws_url
        assert (await client.get(f"/feeds/{feed['name']}")).json()["name"] == feed["name"]
        assert (await client.get("/feeds/none")).status_code == 404
        path = f"/products/{PRODUCT}/resync"
        assert (await client.post(path)).status_code == 401
        assert (await client.post(path, headers={"X-API-Key": "wrong"})).status_code == 401
        granted = await client.post(path, headers={"Authorization": "Bearer key"})
        assert granted.status_code == 202
        await eventually(rebased, "a new base")
        metrics = (await client.get("/metrics")).text
        for name in (
            "md_ingest_messages_total",
            "md_ingest_connected",
            "md_ingest_last_message_age_seconds",
            "md_ingest_queue_depth",
            'md_seq_gap_total{cause="operator",channel="book"',
            'md_resync_total{channel="book",outcome="snapshot"',
            "md_resync_seconds",
            "md_broker_publish_seconds",
            'md_circuit_state{target="rest"} 0.0',
        ):
            assert name in metrics, name
        key = {"X-API-Key": "key"}
        assert (await client.put("/products", json={"products": [PRODUCT]})).status_code == 401
        assert (
            await client.put("/products", json={"products": []}, headers=key)
        ).status_code == 400
        assert (await client.put("/products", content=b"?", headers=key)).status_code == 400
        nowhere = await client.put("/products", json={"products": ["NO-SUCH"]}, headers=key)
        assert nowhere.status_code == 409
        changed = await client.put("/products", json={"products": [PRODUCT]}, headers=key)
        assert changed.json() == {"added": [], "removed": ["ETH-USD"], "left_out": []}
        assert (await client.get("/info")).json()["venue"] == "coinbase"


async def test_a_bad_setting_stops_the_process_at_once_and_names_it(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with (
        SimulatedExchange(products=(PRODUCT,)) as exchange,
        service(
            nats_server, exchange, tmp_path / "ingestor.log", COINBASE_CHANNELS="tick"
        ) as ingestor,
    ):
        assert await ingestor.wait() == 2
        assert "COINBASE_CHANNELS='tick'" in ingestor.log_file.read_text()


async def test_it_is_not_ready_while_the_broker_answers_and_stores_nothing(tmp_path: Path) -> None:
    async with (
        NatsServer(max_file_store="4MB") as nats,
        NatsBroker([nats.url]) as broker,
        SimulatedExchange(products=(PRODUCT, "ETH-USD"), rate=50) as exchange,
        httpx.AsyncClient() as client,
    ):
        await broker.ensure([LogSpec("raw", 3600), LogSpec("invalid", 3600)])
        await fill(broker)
        variables = {"COINBASE_CHANNELS": "matches,heartbeat"}
        async with service(nats, exchange, tmp_path / "ingestor.log", **variables) as ingestor:
            reason = ""
            async with asyncio.timeout(60):
                while "nothing stored" not in reason:
                    assert ingestor.is_running(), ingestor.log_file.read_text()
                    with suppress(httpx.TransportError):
                        answer = await client.get(f"{ingestor.url}/readyz")
                        reason = str(answer.json()["checks"]["broker"]["reason"])
                    await asyncio.sleep(0.05)
            assert answer.status_code == 503
            assert "insufficient resources" in reason
            await make_room(broker)
            await ingestor.ready()
            assert await ingestor.stopped() == 0, ingestor.log_file.read_text()
        records = await raw_records(broker, "trades", PRODUCT)
        seqs = [record.seq for record in records if record.kind == "frame"]
        assert seqs == list(range(seqs[0], seqs[-1] + 1))
