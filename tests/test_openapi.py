"""The HTTP APIs against their own descriptions: thousands of odd requests, no server error."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from services.common.settings import child_environment
from tools.embedded import NatsServer, free_port
from tools.simulator import SimulatedExchange
from tools.stack.process import Process

# `SCHEMATHESIS_SECONDS=300` looks longer.
SECONDS = os.environ.get("SCHEMATHESIS_SECONDS", "12")


@asynccontextmanager
async def service(name: str, folder: Path, **variables: str) -> AsyncIterator[str]:
    """A service as it is deployed; yields its URL when it is ready."""
    environment = {
        "HTTP_HOST": "127.0.0.1",
        "SHARD_COUNT": "1",
        "LOG_FORMAT": "json",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}",
        "AWS_ACCESS_KEY_ID": "none",
        "AWS_SECRET_ACCESS_KEY": "none",
        **variables,
    }
    process = Process(
        name,
        f"services.{name}",
        port=free_port(),
        log_dir=folder,
        ready_path="/readyz",
        environment=lambda port: child_environment({**environment, "HTTP_PORT": str(port)}),
    )
    try:
        await process.start()
        yield process.url
    finally:
        await process.kill()


async def examine(url: str, folder: Path, key: str) -> str:
    """Let schemathesis try everything the description allows and much that it does not."""
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("st")),
        *("run", f"{url}/openapi.json", "--checks", "all", "--phases", "examples,coverage,fuzzing"),
        *("--max-time", SECONDS, "--seed", "1", "--no-color", "--warnings", "off"),
        *("--header", f"X-API-Key: {key}"),
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()


@pytest.fixture
async def exchange() -> AsyncIterator[SimulatedExchange]:
    async with SimulatedExchange(products=("BTC-USD", "ETH-USD")) as running:
        yield running


async def test_the_http_apis_do_what_their_descriptions_say(
    nats_server: NatsServer, exchange: SimulatedExchange, tmp_path: Path
) -> None:
    nats = {"BROKER_KIND": "nats", "NATS_URLS": nats_server.url}
    venue = {
        "COINBASE_WS_PRIMARY": exchange.ws_url,
        "COINBASE_REST_URL": exchange.rest_url,
        "COINBASE_PRODUCTS": "BTC-USD,ETH-USD",
    }
    async with (
        service("ingestor", tmp_path, **nats, **venue, ADMIN_API_KEY="admin") as ingestor,
        service("normalizer", tmp_path, **nats),
        service("gateway", tmp_path, **nats, AUTH_API_KEYS="client-secret") as gateway,
    ):
        found = await asyncio.gather(
            examine(gateway, tmp_path, "client-secret"),
            examine(ingestor, tmp_path, "admin"),
        )
        async with httpx.AsyncClient() as client:
            for url in (gateway, ingestor):
                assert (await client.get(f"{url}/healthz")).status_code == 200
    assert all("generated" in output for output in found)
    for name in ("ingestor", "normalizer", "gateway"):
        log = tmp_path / f"{name}.log"
        assert "Traceback" not in log.read_text()
        assert "client-secret" not in log.read_text()
