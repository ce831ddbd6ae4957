"""What strangers can see: nothing of the process's insides, and no word of a backend."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

import httpx

from services.common.errors import BrokerUnavailable, StoreUnavailable
from services.common.stores.ports import LatestRow
from services.common.stream import Message, Page, Position
from services.common.stream.memory.broker import MemoryBroker
from services.common.subjects import StreamKey
from services.gateway.testing import Rows, bench
from tools.embedded import free_port

# As clients of AWS, Redis and NATS word their errors.
SECRETS = ("arn:aws:dynamodb:eu-west-1:123456789012:table/market", "nats://inside.example:4222")
PRIVATE = ("/metrics", "/info", "/docs", "/startupz", "/livez")


class LeakyBroker(MemoryBroker):
    """While `away`, it says where it is."""

    def __init__(self) -> None:
        super().__init__()
        self.away = False

    def _answer(self) -> None:
        if self.away:
            raise BrokerUnavailable("nats", f"no answer from {SECRETS[1]}")

    async def ping(self) -> None:
        self._answer()
        await super().ping()

    async def subjects(self, log: str) -> Sequence[str]:
        self._answer()
        return await super().subjects(log)

    async def read(self, subject: str, cursor: str = "", *, limit: int = 1000) -> Page:
        self._answer()
        return await super().read(subject, cursor, limit=limit)

    async def seek(self, subject: str, after: Position) -> str:
        self._answer()
        return await super().seek(subject, after)

    async def last(self, subject: str) -> Message | None:
        self._answer()
        return await super().last(subject)


class LeakyRows(Rows):
    """Stores that name the account."""

    async def get(self, key: StreamKey) -> LatestRow | None:
        raise StoreUnavailable("dynamodb", f"access to {SECRETS[0]} is denied")

    async def get_many(self, keys: Sequence[StreamKey]) -> dict[StreamKey, LatestRow]:
        raise StoreUnavailable("dynamodb", f"access to {SECRETS[0]} is denied")


async def test_with_an_admin_port_the_public_one_tells_that_it_lives_and_is_ready() -> None:
    admin_port = free_port()
    async with (
        bench(MemoryBroker(), admin_port=admin_port) as gateway,
        httpx.AsyncClient(base_url=gateway.http) as public,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{admin_port}") as admin,
    ):
        assert (await public.get("/healthz")).json() == {"alive": True}
        gateway.gateway.health.passed("broker")
        assert (await public.get("/readyz")).json() == {"ready": True}
        gateway.gateway.health.failed("serving", SECRETS[0])
        answer = await public.get("/readyz")
        assert (answer.status_code, answer.json()) == (503, {"ready": False})
        assert SECRETS[0] in (await admin.get("/readyz")).text
        for path in PRIVATE:
            assert (await public.get(path)).status_code == 404, path
            assert (await admin.get(path)).status_code == 200, path
        for path in ("/", "/v1/products", "/openapi.json", "/asyncapi.json"):
            assert (await public.get(path)).status_code == 200, path


async def test_no_answer_and_no_message_has_a_word_of_a_backend() -> None:
    broker = LeakyBroker()
    async with (
        bench(broker, rows=LeakyRows(), admin_port=free_port(), stream_linger_s=0) as gateway,
        httpx.AsyncClient(base_url=gateway.http, timeout=30) as http,
        gateway.client() as client,
    ):
        market = gateway.market()
        await market.ticks(3)
        await client.send(type="subscribe", product="BTC-USD", from_seq=0)
        await client.reach(market)
        broker.away = True
        said = [(await http.get(path)).text for path in PATHS]
        for command in COMMANDS:
            await client.send(**command)
            await client.of("subscribed", "error")
        said += [json.dumps(message) for message in client.messages]
    assert any("the log does not answer" in text for text in said)
    for text in said:
        for secret in SECRETS:
            assert secret not in text


async def test_a_subscriber_whose_place_the_log_has_is_told_no_word_of_it_either() -> None:
    broker = LeakyBroker()
    # Nothing is kept in memory, so that the log has to be asked for any place.
    async with bench(broker, window_bytes=0) as gateway, gateway.client() as client:
        market = gateway.market()
        await market.ticks(5)
        await client.send(type="subscribe", product="BTC-USD")
        await client.reach(market)
        broker.away = True
        place = {"from_seq": market.chain[0], "on_unrecoverable": "error"}
        await client.send(type="subscribe", product="BTC-USD", **place)
        answer = await client.until(
            lambda m: m["type"] == "subscribed" and not m["results"][0]["ok"]
        )
    error = answer["results"][0]["error"]
    assert (error["code"], error["message"]) == (6001, "the log does not answer")


PATHS = (
    *("/readyz", "/healthz", "/v1/products", "/v1/streams", "/v1/status", "/v1/gaps"),
    *("/v1/gaps?product=BTC-USD", "/v1/ticks/BTC-USD", "/v1/ticks/NO-SUCH"),
    *("/v1/snapshot/BTC-USD", "/v1/snapshot/BTC-USD?channel=book", "/v1/snapshot/NO-SUCH"),
)
COMMANDS: tuple[dict[str, object], ...] = (
    {"type": "subscribe", "product": "NO-SUCH"},
    {"type": "subscribe", "product": "BTC-USD", "from_seq": 107, "on_unrecoverable": "error"},
)


# What loads something from another host.
ELSEWHERE = re.compile(r"""(?:src|href)=["'](?:https?:)?//|@import|url\(""")


async def test_pages_load_nothing_from_elsewhere_and_say_so() -> None:
    async with bench(MemoryBroker()) as gateway, httpx.AsyncClient(base_url=gateway.http) as http:
        for path in ("/", "/docs"):
            page = await http.get(path)
            policy = page.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert not ELSEWHERE.search(page.text)
            assert "style=" not in page.text
            for link in re.findall(r'(?:src|href)="([^#"][^"]*)"', page.text):
                answer = await http.get(link)
                assert answer.status_code == 200, link
                assert not ELSEWHERE.search(answer.text) or link.endswith(".json"), link


async def test_the_page_of_the_api_has_every_call_and_every_parameter() -> None:
    async with bench(MemoryBroker()) as gateway, httpx.AsyncClient(base_url=gateway.http) as http:
        page = (await http.get("/docs")).text
        paths = (await http.get("/openapi.json")).json()["paths"]
    for path, item in paths.items():
        assert path in page
        for operation in item.values():
            for parameter in operation.get("parameters", []):
                assert f"<code>{parameter['name']}</code>" in page


async def test_the_board_neither_takes_a_key_from_the_address_nor_puts_one_there() -> None:
    async with bench(MemoryBroker()) as gateway, httpx.AsyncClient(base_url=gateway.http) as http:
        script = (await http.get("/board.js")).text
    assert "location.hash" not in script
    assert "location.search" not in script
    assert "sessionStorage" in script
