"""What HTTP connections and requests may hold, by the settings that say so, over real sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from services.common.stream import Page
from services.common.stream.memory.broker import MemoryBroker
from services.common.testing.waiting import WAIT_S
from services.gateway.testing import Bench, bench, eventually

_ASK = b"GET %b HTTP/1.1\r\nHost: localhost\r\n\r\n"


def _refused(gateway: Bench, reason: str) -> Callable[[], float]:
    """How often so far, as the metric counts it."""
    counter: Any = gateway.gateway.metrics.http_refused.labels(reason)._value
    return lambda: float(counter.get())


async def _connected(gateway: Bench, stack: AsyncExitStack, address: str) -> socket.socket:
    """A connection from one of this machine's own addresses; it takes little before it is read."""
    sock = stack.enter_context(socket.socket())
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    sock.bind((address, 0))
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", gateway.port))
    return sock


async def _status_line(sock: socket.socket) -> bytes:
    async with asyncio.timeout(WAIT_S):
        return (await asyncio.get_running_loop().sock_recv(sock, 4096)).split(b"\r\n")[0]


async def test_answers_that_nobody_reads_are_bounded_together_and_the_others_are_answered() -> None:
    loop = asyncio.get_running_loop()
    async with (
        bench(MemoryBroker(), http_queue_bytes=1024 * 1024, http_write_timeout_s=3600) as gateway,
        AsyncExitStack() as stack,
    ):
        market = gateway.market(padding=4000)
        await market.ticks(250)
        dropped = _refused(gateway, "over_queue")
        for _ in range(4):
            sock = await _connected(gateway, stack, "127.0.0.1")
            # Answers of 1 MB each: the kernel takes the first of them.
            await loop.sock_sendall(sock, _ASK % b"/v1/ticks/BTC-USD" * 40)
        # Of those that hold a megabyte each only one may stay.
        await eventually(lambda: dropped() >= 3)
        async with httpx.AsyncClient(base_url=gateway.http, timeout=WAIT_S) as http:
            assert (await http.get("/healthz")).status_code == 200


async def test_one_address_has_so_many_connections_that_speak_http() -> None:
    loop = asyncio.get_running_loop()
    async with (
        bench(MemoryBroker(), http_max_connections_per_address=2) as gateway,
        AsyncExitStack() as stack,
    ):
        refused = _refused(gateway, "address")
        told = []
        for address in ("127.0.0.1", "127.0.0.1", "127.0.0.1", "127.0.0.2"):
            sock = await _connected(gateway, stack, address)
            await loop.sock_sendall(sock, _ASK % b"/healthz")
            told.append(await _status_line(sock))
        assert [line.split()[1] for line in told] == [b"200", b"200", b"503", b"200"]
        assert refused() == 1


async def test_so_many_connections_may_have_said_nothing() -> None:
    async with (
        bench(MemoryBroker(), ws_max_connections=2) as gateway,
        AsyncExitStack() as stack,
    ):
        refused = _refused(gateway, "connections")
        for _ in range(2):
            await _connected(gateway, stack, "127.0.0.1")
        third = await _connected(gateway, stack, "127.0.0.1")
        # Ended without a word.
        assert await _status_line(third) == b""
        assert refused() == 1


@pytest.mark.parametrize(
    ("bound", "second"),
    [
        ({"ws_max_keyless": 1}, "203.0.113.2"),
        ({"ws_max_keyless_per_address": 1}, "203.0.113.1"),
        # However many may be without a key, half of all places are for those with one.
        ({"ws_max_connections": 2}, "203.0.113.2"),
    ],
    ids=["of-all", "of-an-address", "half-of-all"],
)
async def test_so_many_sockets_may_be_without_a_key(bound: dict[str, int], second: str) -> None:
    settings: dict[str, Any] = {"auth_api_keys": "right", "trusted_proxies": "127.0.0.1", **bound}

    def from_(address: str, **headers: str) -> dict[str, Any]:
        return {"additional_headers": {"X-Forwarded-For": address, **headers}}

    async with (
        bench(MemoryBroker(), **settings) as gateway,
        gateway.client(**from_("203.0.113.1")) as first,
    ):
        await first.of("welcome")
        with pytest.raises(InvalidStatus) as refused:
            await gateway.client(**from_(second)).__aenter__()
        assert refused.value.response.status_code == 503
        assert _refused(gateway, "keyless")() == 1
        async with gateway.client(**from_(second, **{"X-API-Key": "right"})) as keyed:
            await keyed.of("welcome")


class _OneStuck(MemoryBroker):
    """A log in which the reader of one product gets no answer while `stuck`."""

    def __init__(self) -> None:
        super().__init__()
        self.stuck = asyncio.Event()
        self.goes_on = asyncio.Event()

    async def read(self, subject: str, cursor: str = "", *, limit: int = 1000) -> Page:
        if subject.endswith("ticker.BTC-USD") and not self.goes_on.is_set():
            self.stuck.set()
            await self.goes_on.wait()
        return await super().read(subject, cursor, limit=limit)


async def test_gaps_of_one_product_do_not_wait_for_those_of_another() -> None:
    broker = _OneStuck()
    async with (
        bench(broker) as gateway,
        httpx.AsyncClient(base_url=gateway.http, timeout=WAIT_S) as http,
        asyncio.TaskGroup() as group,
    ):
        for product in ("BTC-USD", "ETH-USD"):
            market = gateway.market(product)
            await market.publish(market.tick(), market.reset({"price": "1"}))
        waits = group.create_task(http.get("/v1/gaps?product=BTC-USD"))
        async with asyncio.timeout(WAIT_S):
            await broker.stuck.wait()
            other = (await http.get("/v1/gaps?product=ETH-USD")).json()
        assert [gap["product"] for gap in other["gaps"]] == ["ETH-USD"]
        assert not waits.done()
        broker.goes_on.set()
        assert [gap["product"] for gap in (await waits).json()["gaps"]] == ["BTC-USD"]
