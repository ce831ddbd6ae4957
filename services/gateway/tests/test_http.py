"""The HTTP API over a real port."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import httpx
import pytest

from services.common.models import Snapshot, Tick
from services.common.stream.memory.broker import MemoryBroker
from services.gateway.testing import Bench, bench


@pytest.fixture
async def gateway() -> AsyncIterator[Bench]:
    async with bench(MemoryBroker()) as running:
        yield running


@pytest.fixture
async def http(gateway: Bench) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=gateway.http) as client:
        yield client


async def test_products_and_streams_are_listed(gateway: Bench, http: httpx.AsyncClient) -> None:
    await gateway.market().ticks(2)
    await gateway.market(channel="trades").ticks(2)
    answer = (await http.get("/v1/products")).json()
    assert answer == {"products": [{"product": "BTC-USD", "channels": ["ticker", "trades"]}]}
    streams = (await http.get("/v1/streams")).json()
    assert [one["stream"] for one in streams] == [
        "coinbase:ticker:BTC-USD",
        "coinbase:trades:BTC-USD",
    ]


async def test_a_snapshot_is_the_state_at_the_head(gateway: Bench, http: httpx.AsyncClient) -> None:
    market = gateway.market()
    await market.ticks(4)
    answer = await http.get("/v1/snapshot/BTC-USD")
    snapshot = Snapshot.model_validate(answer.json())
    assert snapshot.seq == market.seq
    assert (await http.get("/v1/snapshot/NO-SUCH")).status_code == 404
    assert (await http.get("/v1/snapshot/BTC-USD?channel=candles")).status_code == 422


async def test_ticks_can_be_paged_through(gateway: Bench, http: httpx.AsyncClient) -> None:
    market = gateway.market()
    await market.ticks(25)
    seen: list[int] = []
    from_seq, at_head = 0, False
    while not at_head:
        url = f"/v1/ticks/BTC-USD?channel=ticker&from_seq={from_seq}&limit=10"
        answer = (await http.get(url)).json()
        seen += [Tick.model_validate(tick).seq for tick in answer["ticks"]]
        from_seq, at_head = answer["next_from_seq"], answer["at_head"]
    assert seen == market.chain


async def test_gaps_are_the_resets_in_the_logs(gateway: Bench, http: httpx.AsyncClient) -> None:
    market = gateway.market()
    await market.ticks(3)
    await market.publish(market.reset({"volume_30d": "1"}))
    answer = (await http.get("/v1/gaps?product=BTC-USD")).json()
    assert answer["complete"]
    (gap,) = answer["gaps"]
    assert (gap["cause"], gap["repair"], gap["seq"]) == ("gap", "snapshot", market.seq)
    assert gap["state"] == "lost"


async def test_health_metrics_and_documents_are_served(
    gateway: Bench, http: httpx.AsyncClient
) -> None:
    for path in ("/healthz", "/readyz", "/info", "/v1/status", "/openapi.json", "/docs"):
        assert (await http.get(path)).status_code == 200, path
    metrics = (await http.get("/metrics")).text
    for name in ("md_ws_connections", "md_ws_queue_bytes", "md_end_to_end_seconds"):
        assert name in metrics
    asyncapi = (await http.get("/asyncapi.json")).json()
    assert asyncapi["asyncapi"].startswith("3.")


async def test_a_plain_request_for_the_socket_is_told_to_upgrade(http: httpx.AsyncClient) -> None:
    answer = await http.get("/ws")
    assert (answer.status_code, answer.headers["upgrade"]) == (426, "websocket")


async def test_the_board_needs_nothing_from_elsewhere(http: httpx.AsyncClient) -> None:
    page = await http.get("/")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "<script>" not in page.text
    assert "style=" not in page.text
    for link in re.findall(r'(?:src|href)="([^#"][^"]*)"', page.text):
        assert link.startswith("/")
        assert (await http.get(link)).status_code == 200


async def test_the_api_asks_for_a_key_where_one_is_configured() -> None:
    async with (
        bench(MemoryBroker(), auth_api_keys="right") as gateway,
        httpx.AsyncClient(base_url=gateway.http) as http,
    ):
        assert (await http.get("/v1/products")).status_code == 401
        answer = await http.get("/v1/products", headers={"X-API-Key": "right"})
        assert answer.status_code == 200
        assert (await http.get("/readyz")).status_code == 200
