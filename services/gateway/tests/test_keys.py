"""API keys: what each of them may do, and that none of them is ever shown."""

from __future__ import annotations

import hashlib
from typing import Any

import httpx
import pytest
from pydantic import ValidationError
from websockets.exceptions import InvalidStatus

from services.common.stream.memory.broker import MemoryBroker
from services.gateway.admission.auth import Grant, KeyRing
from services.gateway.testing import bench, eventually, small_settings

HASHED = "sha256:" + hashlib.sha256(b"desk-secret").hexdigest()
LIMITED = f"{HASHED};name=desk;products=BTC-USD|ETH-*;connections=1;subscriptions=2;commands=2.5"


def test_a_key_is_parsed_with_all_it_may_do() -> None:
    ring = KeyRing([LIMITED, "plain"])
    assert ring.grant("desk-secret") == Grant("desk", ("BTC-USD", "ETH-*"), 1, 2, 2.5)
    assert ring.grant("plain") == Grant("key-2")
    assert ring.grant(HASHED) is None
    assert ring.grant("") is None


@pytest.mark.parametrize(
    "keys",
    [
        "sha256:abc",
        "s3cret;connections=0",
        "s3cret;connections=many",
        "s3cret;commands=-1",
        "s3cret;products=",
        "s3cret;products=A B",
        "s3cret;nonsense=1",
        "s3cret;name",
        ";name=a",
    ],
)
def test_a_malformed_key_is_refused_without_being_shown(keys: str) -> None:
    with pytest.raises(ValidationError) as refused:
        small_settings(auth_api_keys=f"fine,{keys}")
    shown = [str(error["msg"]) for error in refused.value.errors()]
    assert "key 2" in shown[0]
    assert "s3cret" not in shown[0]


def test_production_takes_no_empty_list_of_keys() -> None:
    production = {"environment": "production", "broker_kind": "nats"}
    small_settings(**production, auth_api_keys=LIMITED)
    with pytest.raises(ValidationError, match="AUTH_API_KEYS"):
        small_settings(**production, auth_api_keys=" , ")


async def test_a_key_covers_its_products_only_on_every_way_in() -> None:
    async with bench(MemoryBroker(), auth_api_keys=LIMITED) as gateway:
        for product in ("BTC-USD", "ETH-EUR", "SOL-USD"):
            await gateway.market(product).ticks(2)
        async with gateway.client("/ws?api_key=desk-secret") as client:
            welcome = await client.receive()
            assert welcome["limits"]["max_subscriptions"] == 2
            assert welcome["limits"]["commands_per_second"] == 2.5
            await client.send(
                type="subscribe", products=["BTC-USD", "SOL-USD", "NO-SUCH", "ETH-EUR", "ETH-X"]
            )
            results = (await client.of("subscribed"))["results"]
            codes = [result.get("error", {}).get("code") for result in results]
            assert codes == [None, 2003, 2003, None, 3000]
            await client.send(type="subscribe", product="BTC-USD", channel="trades")
            assert (await client.of("subscribed"))["results"][0]["error"]["code"] == 3005
            for _ in range(20):
                await client.send(type="ping")
            assert (await client.of("rate_limit"))["scope"] == "commands"
        headers = {"X-API-Key": "desk-secret"}
        async with httpx.AsyncClient(base_url=gateway.http, headers=headers) as http:
            assert (await http.get("/v1/snapshot/BTC-USD")).status_code == 200
            for path in ("snapshot/SOL-USD", "ticks/SOL-USD", "gaps?product=SOL-USD"):
                assert (await http.get(f"/v1/{path}")).status_code == 403
            listed = (await http.get("/v1/products")).json()["products"]
            assert [one["product"] for one in listed] == ["BTC-USD", "ETH-EUR"]
            streams = (await http.get("/v1/streams")).json()
            assert {one["product"] for one in streams} == {"BTC-USD", "ETH-EUR"}


async def test_a_key_has_so_many_connections_and_a_closed_one_frees_its_place_at_once() -> None:
    async with bench(MemoryBroker(), auth_api_keys=f"{LIMITED},other") as gateway:
        for _ in range(3):
            async with gateway.client("/ws?api_key=desk-secret") as first:
                await first.of("welcome")
                with pytest.raises(InvalidStatus) as refused:
                    async with gateway.client("/ws?api_key=desk-secret"):
                        pass
                assert refused.value.response.status_code == 503
                assert b'"code": 2005' in (refused.value.response.body or b"")
                async with gateway.client() as second:
                    await second.send(type="auth", api_key="desk-secret")
                    assert (await second.of("error"))["code"] == 2005
                    await second.send(type="auth", api_key="other")
                    assert (await second.of("auth"))["ok"]
            await eventually(lambda: not gateway.gateway.sessions)
        async with gateway.client() as again:
            await again.send(type="auth", api_key="desk-secret")
            answer = await again.of("auth")
            assert answer["limits"]["max_subscriptions"] == 2
        await eventually(lambda: not gateway.gateway.sessions)
        async with gateway.client("/ws?api_key=desk-secret") as last:
            await last.of("welcome")


async def test_auth_that_is_sent_again_changes_nothing() -> None:
    async with bench(MemoryBroker(), auth_api_keys=f"{LIMITED},other") as gateway:
        await gateway.market("SOL-USD").ticks(1)
        async with gateway.client("/ws?api_key=desk-secret") as client:
            await client.send(type="auth", id=1, api_key="desk-secret")
            assert (await client.of("auth"))["id"] == 1
            await client.send(type="auth", id=2, api_key="other")
            assert (await client.of("error"))["code"] == 2001
            await client.send(type="subscribe", product="SOL-USD")
            error: dict[str, Any] = (await client.of("subscribed"))["results"][0]["error"]
            assert error["code"] == 2003


async def test_guessing_keys_ends_in_a_close() -> None:
    async with (
        bench(MemoryBroker(), auth_api_keys="right") as gateway,
        gateway.client() as client,
    ):
        for number in range(40):
            await client.send(type="auth", api_key=f"guess-{number}")
        assert await client.closed() == 1008
