"""What docs/operations/nats.md gives to one user for everything is enough, and is not idle.

Each service under its own user: tests/deployment/test_pods.py.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import nats
import pytest

from services.common.settings import CommonSettings
from services.common.stream.factory import open_broker
from services.common.testing.proxy import Proxy
from services.common.testing.waiting import WAIT_S
from services.gateway.testing import bench
from services.snapshotter.testing import SHARDS, Platform
from tools.embedded import AwsServer, NatsServer
from tools.replay.testing import record_market

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "operations" / "nats.md"
USER, PASSWORD = "market-data", "secret"


def permissions() -> str:
    found = re.search(
        r"```text\n# operator\n(?P<lines>publish: .*?)```", DOCUMENT.read_text(), re.DOTALL
    )
    assert found is not None
    return found["lines"]


def guarded() -> NatsServer:
    user = f'user: "{USER}", password: "{PASSWORD}", permissions: {{\n{permissions()}}}'
    return NatsServer(extra_config=f"authorization {{ users: [ {{ {user} }} ] }}")


async def test_all_services_work_with_these_permissions(
    aws_server: AwsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in aws_server.environment.items():
        monkeypatch.setenv(name, value)
    async with guarded() as server:
        settings = CommonSettings.model_validate(
            {"nats_urls": server.url, "nats_user": USER, "nats_password": PASSWORD}
        )
        proxy = Proxy(aws_server.port)
        await proxy.start()
        try:
            async with Platform(aws_server.url, proxy, lambda: open_broker(settings)) as platform:
                # Ingestor, normalizer and snapshotter; then a gateway with a client.
                await record_market(platform, products=("BTC-USD",), seconds=3, rate=50)
        finally:
            await proxy.aclose()
        async with (
            bench(open_broker(settings), open_broker(settings), shard_count=SHARDS) as gateway,
            gateway.client() as client,
        ):
            market = gateway.market("ETH-USD")
            await market.ticks(20)
            await client.send(type="subscribe", product="ETH-USD", from_seq=0)
            await client.of("subscribed")
            await market.ticks(20)
            await client.reach(market)
            assert client.breaks == []
        assert "violation" not in server.log_file.read_text().lower()


async def test_what_is_not_permitted_is_refused() -> None:
    refused: asyncio.Queue[str] = asyncio.Queue()

    async def on_error(error: Exception) -> None:
        refused.put_nowait(str(error))

    async with guarded() as server:
        client = await nats.connect(
            server.url, user=USER, password=PASSWORD, error_cb=on_error, allow_reconnect=False
        )
        await client.publish("elsewhere", b"x")
        async with asyncio.timeout(WAIT_S):
            assert "elsewhere" in await refused.get()
        await client.close()
