"""No key is ever in what the process writes, whichever way it came."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

import httpx
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from services.common.settings import child_environment
from services.gateway.testing import Client
from tools.embedded import NatsServer, free_port
from tools.stack.process import Process

SECRETS = ("right-secret", "wrong-secret")


async def _use(port: int, secret: str) -> None:
    url = f"ws://127.0.0.1:{port}/ws"
    for client in (
        Client(f"{url}?api_key={secret}"),
        Client(f"{url}?x=1&api_key={secret}", origin="https://bad.example"),
        Client(url, additional_headers={"X-API-Key": secret}),
        Client(url, additional_headers={"Authorization": f"Bearer {secret}"}),
    ):
        with suppress(InvalidHandshake, ConnectionClosed):
            async with client:
                await client.send(type="auth", api_key=secret)
                await client.send(type="subscribe", product="BTC-USD", api_key=secret)
                await client.of("subscribed", "error")
                await client.socket.send(f'{{"type":"auth","api_key":"{secret}"')
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
        await http.get(f"/v1/products?api_key={secret}")
        await http.get("/v1/products", headers={"X-API-Key": secret})
        await http.get(f"/ws?api_key={secret}")
        await http.get(f"/nowhere?api_key={secret}")
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET /ws?api_key={secret} HTTP/9.9\r\n\r\n".encode())
    await reader.readline()
    writer.close()


async def test_no_key_is_ever_logged(nats_server: NatsServer, tmp_path: Path) -> None:
    variables = {
        "NATS_URLS": nats_server.url,
        "SHARD_COUNT": "1",
        "HTTP_HOST": "127.0.0.1",
        "LOG_LEVEL": "DEBUG",
        "LOG_FORMAT": "json",
        "DRAIN_SECONDS": "0.5",
        "AUTH_API_KEYS": f"{SECRETS[0]};name=desk",
        "ALLOWED_ORIGINS": "https://good.example",
        "ENVIRONMENT": "production",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}",
        "AWS_ACCESS_KEY_ID": "none",
        "AWS_SECRET_ACCESS_KEY": "aws-secret",
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
        await process.start()
        for secret in SECRETS:
            await _use(process.port, secret)
        await process.stop()
        assert await process.wait() == 0
    finally:
        await process.kill()
    written = process.log_file.read_text()
    assert "service_stopped" in written
    assert "api_keys_not_hashed" in written
    for secret in (*SECRETS, "aws-secret"):
        assert secret not in written
