"""`python -m services.gateway` as an operator runs it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from services.common.settings import child_environment
from services.common.stream.nats.broker import NatsBroker
from services.common.stream.specs import log_specs
from services.gateway.testing import WAIT_S, Client, Market, small_settings
from tools.embedded import NatsServer, free_port
from tools.stack.process import Process


async def test_sigterm_drains_the_clients_and_ends_with_status_0(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with NatsBroker((nats_server.url,), prefix="MARKET") as broker:
        await broker.ensure(log_specs(small_settings()))
        publisher = await broker.publisher()
        market = Market(publisher)
        await market.ticks(5)
        variables = {
            "NATS_URLS": nats_server.url,
            "SHARD_COUNT": "2",
            "HTTP_HOST": "127.0.0.1",
            "LOG_FORMAT": "json",
            "DRAIN_SECONDS": "1",
            # Nothing listens there: the gateway has to do without its stores.
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}",
            "AWS_ACCESS_KEY_ID": "none",
            "AWS_SECRET_ACCESS_KEY": "none",
        }
        process = Process(
            "gateway",
            "services.gateway",
            port=free_port(),
            log_dir=tmp_path,
            ready_path="/readyz",
            environment=lambda port: child_environment({**variables, "HTTP_PORT": str(port)}),
        )
        try:
            # Handshakes are answered once the log was reached.
            await process.start()
            async with Client(f"ws://127.0.0.1:{process.port}/ws") as client:
                await client.send(type="subscribe", product="BTC-USD")
                await client.of("snapshot")
                await market.ticks(3)
                await client.reach(market)
                assert process.pid is not None
                os.kill(process.pid, signal.SIGTERM)
                drain = await client.of("drain")
                assert drain["resume"][str(market.key)]["seq"] == market.seq
                assert await client.closed() == 1012
            async with asyncio.timeout(WAIT_S):
                assert await process.wait() == 0
        finally:
            await process.kill()
            await publisher.aclose()


async def test_production_without_keys_stops_at_once_and_names_the_variable() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.gateway"),
        stderr=asyncio.subprocess.PIPE,
        env=child_environment({"ENVIRONMENT": "production"}),
    )
    _out, err = await process.communicate()
    assert process.returncode == 2
    assert b"AUTH_API_KEYS" in err
