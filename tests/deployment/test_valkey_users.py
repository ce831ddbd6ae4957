"""Valkey with TLS, client certificates and a user for each service (deploy/valkey/users.conf)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
from redis.exceptions import AuthenticationError, NoPermissionError
from websockets.asyncio.client import connect

from services.common.tests.test_tls import Certificates, certificates, redis_with_tls
from tools.embedded import AwsServer, ValkeyServer, free_port
from tools.simulator.exchange import SimulatedExchange
from tools.stack.process import Process

__all__ = ["certificates"]

RULES = Path(__file__).resolve().parents[2] / "deploy" / "valkey" / "users.conf"
SERVICES = ("ingestor", "normalizer", "snapshotter", "gateway")
RAW, TICK = "market:market.raw.coinbase.trades.A@1", "market:market.tick.0.coinbase.trades.A@1"


class Guarded:
    """A server with the users, behind TLS at `address`."""

    def __init__(self, server: ValkeyServer, address: str) -> None:
        self.server = server
        self._address = address

    def url(self, user: str) -> str:
        return self._address.replace("://", f"://{user}:secret-of-{user}@")

    def client(self, user: str) -> Any:
        """Straight to the server, as whoever has taken over a service."""
        plain = self.server.url.replace("://", f"://{user}:secret-of-{user}@")
        return redis.asyncio.Redis.from_url(plain)

    async def refused(self) -> set[tuple[str, str]]:
        """Who was refused what: users and commands."""
        async with self.client("admin") as admin:
            return {(one["username"], one["object"]) for one in await admin.acl_log()}


@pytest.fixture
async def guarded(certificates: Certificates, tmp_path: Path) -> AsyncIterator[Guarded]:
    rules = RULES.read_text()
    for name in SERVICES:
        rules = rules.replace(f">{name.upper()}_PASSWORD", f">secret-of-{name}")
    config = tmp_path / "valkey.conf"
    config.write_text(f"{rules}\nuser admin on >secret-of-admin ~* &* +@all\n")
    server = ValkeyServer(config=config)
    async with redis_with_tls(certificates, server) as address:
        yield Guarded(server, address)


async def receive_ticks(port: int, count: int) -> None:
    async with connect(f"ws://127.0.0.1:{port}/ws", max_size=None, proxy=None) as client:
        await client.send(json.dumps({"type": "subscribe", "product": "BTC-USD"}))
        async with asyncio.timeout(60):
            while count:
                count -= json.loads(await client.recv())["type"] == "incr"


def is_trimming(user: str, refused: str) -> bool:
    """Every service tries to trim each log, by a script; only who writes a log may."""
    if user in ("gateway", "snapshotter"):
        return refused == "eval"
    others = {"ingestor": "market:market.tick.", "normalizer": "market:market.raw."}
    return refused.startswith(others[user])


@pytest.mark.e2e
async def test_each_service_works_as_its_own_user_over_tls(
    guarded: Guarded, certificates: Certificates, aws_server: AwsServer, tmp_path: Path
) -> None:
    http_port = free_port()
    async with SimulatedExchange() as exchange:
        common = {
            **aws_server.environment,
            "BROKER_KIND": "redis",
            "REDIS_TLS_CA_FILE": certificates.ca,
            "REDIS_TLS_CERT_FILE": certificates.client_cert,
            "REDIS_TLS_KEY_FILE": certificates.client_key,
            "SHARD_COUNT": "2",
            "HTTP_PORT": str(http_port),
            "COINBASE_PRODUCTS": "BTC-USD",
            "COINBASE_WS_PRIMARY": exchange.ws_url,
            "COINBASE_WS_FALLBACK": exchange.ws_url,
            "COINBASE_REST_URL": exchange.rest_url,
        }

        def process(name: str) -> Process:
            own = common | {"REDIS_URL": guarded.url(name)}
            return Process(
                name,
                f"services.{name}",
                port=free_port(),
                log_dir=tmp_path,
                ready_path="/readyz",
                environment=lambda port: own | {"ADMIN_PORT": str(port)},
            )

        running = [process(name) for name in SERVICES]
        try:
            async with asyncio.TaskGroup() as group:
                for one in running:
                    group.create_task(one.start())
            await receive_ticks(http_port, 20)
        finally:
            for one in running:
                await one.stop()
    assert [one for one in await guarded.refused() if not is_trimming(*one)] == []


BEYOND: dict[str, list[tuple[str, ...]]] = {
    "ingestor": [("XADD", TICK, "*", "p", "x"), ("XACK", RAW, "g", "1-1"), ("DEL", RAW)],
    "normalizer": [("XADD", RAW, "*", "p", "x"), ("XTRIM", RAW, "MAXLEN", "0"), ("FLUSHALL",)],
    "snapshotter": [
        ("XADD", RAW, "*", "p", "x"),
        ("XADD", TICK, "*", "p", "x"),
        ("EVAL", "return redis.call('XADD', KEYS[1], '*', 'p', 'x')", "1", TICK),
    ],
    "gateway": [
        ("XADD", RAW, "*", "p", "x"),
        ("XADD", TICK, "*", "p", "x"),
        ("XACK", TICK, "g", "1-1"),
        ("HSET", "market:places:raw:g", "a", "b"),
        ("CONFIG", "SET", "maxmemory", "1"),
        ("KEYS", "*"),
        ("ACL", "LIST"),
        ("GET", "elsewhere"),
    ],
    "default": [],
}


@pytest.mark.parametrize(("user", "commands"), BEYOND.items(), ids=BEYOND)
async def test_what_a_user_may_not_do_is_refused(
    user: str, commands: list[tuple[str, ...]], guarded: Guarded
) -> None:
    if user == "default":
        async with redis.asyncio.Redis.from_url(guarded.server.url) as nobody:
            with pytest.raises(AuthenticationError):
                await nobody.ping()
        return
    async with guarded.client(user) as client:
        assert await client.ping()
        for command in commands:
            with pytest.raises(NoPermissionError):
                await client.execute_command(*command)
