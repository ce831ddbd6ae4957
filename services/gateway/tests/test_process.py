"""`python -m services.gateway` as an operator runs it."""

from __future__ import annotations

import asyncio
import json
import signal
import sys

from services.common.settings import child_environment
from services.common.stream.nats import NatsBroker
from services.common.stream.specs import log_specs
from services.gateway.testing import WAIT_S, Client, Market, small_settings
from tools.embedded import NatsServer, free_port

COMMAND = (sys.executable, "-m", "services.gateway")


async def test_sigterm_drains_the_clients_and_ends_with_status_0(nats_server: NatsServer) -> None:
    async with NatsBroker((nats_server.url,), prefix="MARKET") as broker:
        await broker.ensure(log_specs(small_settings()))
        publisher = await broker.publisher()
        market = Market(publisher)
        await market.ticks(5)
        environment = child_environment(
            {
                "NATS_URLS": nats_server.url,
                "SHARD_COUNT": "2",
                "HTTP_HOST": "127.0.0.1",
                "HTTP_PORT": "0",
                "LOG_FORMAT": "json",
                "DRAIN_SECONDS": "1",
                # Nothing listens there: the gateway has to do without its stores.
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}",
                "AWS_ACCESS_KEY_ID": "none",
                "AWS_SECRET_ACCESS_KEY": "none",
            }
        )
        process = await asyncio.create_subprocess_exec(
            *COMMAND, stderr=asyncio.subprocess.PIPE, env=environment
        )
        try:
            port = await _port(process)
            async with Client(f"ws://127.0.0.1:{port}/ws") as client:
                await client.send(type="subscribe", product="BTC-USD")
                await client.of("snapshot")
                await market.ticks(3)
                await client.reach(market)
                process.send_signal(signal.SIGTERM)
                drain = await client.of("drain")
                assert drain["resume"][str(market.key)]["seq"] == market.seq
                assert await client.closed() == 1012
            async with asyncio.timeout(WAIT_S):
                await process.communicate()
            assert process.returncode == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            await publisher.aclose()


async def test_production_without_keys_stops_at_once_and_names_the_variable() -> None:
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        stderr=asyncio.subprocess.PIPE,
        env=child_environment({"ENVIRONMENT": "production"}),
    )
    _out, err = await process.communicate()
    assert process.returncode == 2
    assert b"AUTH_API_KEYS" in err


async def _port(process: asyncio.subprocess.Process) -> int:
    assert process.stderr is not None
    async with asyncio.timeout(WAIT_S):
        port = 0
        async for line in process.stderr:
            record = json.loads(line) if line.startswith(b"{") else {}
            if record.get("event") == "http_listening":
                port = int(record["port"])
            # Handshakes are answered once the log was reached.
            if port and await _ready(port):
                return port
    raise AssertionError("the gateway never listened")


async def _ready(port: int) -> bool:
    while True:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /readyz HTTP/1.0\r\n\r\n")
        answer = await reader.read()
        writer.close()
        if b" 200 " in answer.split(b"\r\n")[0]:
            return True
