from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from prometheus_client import CollectorRegistry, Counter
from starlette.applications import Starlette

from services.common.observability.health import Health, Standstill, health_routes


@pytest.fixture
def health() -> Health:
    return Health("tester", "broker", "feed")


@pytest.fixture
async def client(health: Health) -> AsyncIterator[httpx.AsyncClient]:
    registry = CollectorRegistry()
    Counter("md_test_total", "Tests.", registry=registry).inc()
    app = Starlette(routes=health_routes(health, {"shards": [1]}, registry))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as found:
        yield found


async def test_a_service_is_alive_before_it_is_ready(client: httpx.AsyncClient) -> None:
    answer = await client.get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"alive": True, "service": "tester"})
    answer = await client.get("/readyz")
    assert answer.status_code == 503
    assert [check["reason"] for check in answer.json()["checks"].values()] == [
        "not checked yet",
        "not checked yet",
    ]


async def test_it_is_ready_when_every_check_passes(
    client: httpx.AsyncClient, health: Health
) -> None:
    health.passed("broker")
    assert (await client.get("/readyz")).status_code == 503
    health.passed("feed")
    answer = await client.get("/readyz")
    assert answer.status_code == 200
    assert answer.json()["ready"] is True


async def test_a_failing_check_says_why_and_since_when(
    client: httpx.AsyncClient, health: Health
) -> None:
    for name in ("broker", "feed"):
        health.passed(name)
    health.failed("broker", "no answer")
    answer = await client.get("/readyz")
    assert answer.status_code == 503
    checks = answer.json()["checks"]
    assert checks["feed"]["ok"] is True
    assert (checks["broker"]["ok"], checks["broker"]["reason"]) == (False, "no answer")
    since = checks["broker"]["since"]
    assert since >= health.started
    health.failed("broker", "still no answer")
    checks = (await client.get("/readyz")).json()["checks"]
    assert (checks["broker"]["reason"], checks["broker"]["since"]) == ("still no answer", since)


async def test_a_service_is_started_when_each_check_has_held_once_and_stays_so(
    client: httpx.AsyncClient, health: Health
) -> None:
    answer = await client.get("/startupz")
    assert (answer.status_code, answer.json()["pending"]) == (503, ["broker", "feed"])
    # Not at the same time: what holds a start up is named, whatever else comes and goes meanwhile.
    health.passed("broker")
    health.failed("broker", "gone again")
    answer = await client.get("/startupz")
    assert (answer.status_code, answer.json()["pending"]) == (503, ["feed"])
    health.passed("feed")
    health.failed("feed", "gone as well")
    health.failed("store", "declared late")
    answer = await client.get("/startupz")
    assert (answer.status_code, answer.json()) == (
        200,
        {"started": True, "service": "tester", "pending": []},
    )
    assert (await client.get("/readyz")).status_code == 503


async def test_a_check_may_be_declared_late(health: Health) -> None:
    for name in ("broker", "feed"):
        health.passed(name)
    assert health.ready
    health.failed("store", "throttled")
    assert not health.ready


async def test_metrics_and_info_are_served(client: httpx.AsyncClient) -> None:
    metrics = await client.get("/metrics")
    assert "md_test_total 1.0" in metrics.text
    assert metrics.headers["content-type"].startswith("text/plain")
    info = (await client.get("/info")).json()
    assert (info["service"], info["shards"]) == ("tester", [1])
    assert info["version"]
    assert info["started"] > 0


def test_a_standstill_begins_when_something_is_seen_to_wait() -> None:
    still = Standstill()
    assert still.seen(waiting=False, mark=0, now=1000.0) == 0
    # Nothing was done for a thousand seconds, as there was nothing to do.
    assert still.seen(waiting=True, mark=0, now=2000.0) == 0
    assert still.seen(waiting=True, mark=0, now=2031.0) == 31
    assert still.seen(waiting=True, mark=1, now=2040.0) == 0
    assert still.seen(waiting=True, mark=1, now=2050.0) == 10
    assert still.seen(waiting=False, mark=1, now=2060.0) == 0
    assert still.seen(waiting=True, mark=1, now=2070.0) == 0
