"""What strangers send: the process stays healthy and everybody else is served."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidMessage, InvalidStatus

from services.common.stream.memory.broker import MemoryBroker
from services.gateway.testing import WAIT_S, Bench, bench, eventually

HEAD = b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"


@pytest.fixture
async def gateway() -> AsyncIterator[Bench]:
    """Afterwards it has to serve as before, and nothing may be left of whoever came."""
    # A slow machine's time earns no commands, and costs nobody a handshake but who trickles.
    async with bench(MemoryBroker(), ws_handshake_timeout_s=5, ws_max_msgs_per_sec=1) as running:
        market = running.market()
        await market.ticks(3)
        yield running
        await eventually(lambda: not running.gateway.sessions)
        async with running.client() as client:
            await client.send(type="subscribe", product="BTC-USD")
            await client.of("snapshot")
            await market.ticks(3)
            await client.reach(market)
        assert client.breaks == []
        assert running.gateway.health.ready


async def trickle(port: int, head: bytes, *, at_once: bytes = b"") -> bytes:
    """Send one byte after another until the server ends it; what it answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(at_once)
    answer = asyncio.create_task(reader.read())
    try:
        async with asyncio.timeout(WAIT_S):
            for byte in head * 1000:
                if answer.done():
                    break
                writer.write(bytes([byte]))
                await asyncio.wait([answer], timeout=0.02)
        return await answer
    except ConnectionError:
        return b""
    finally:
        answer.cancel()
        writer.close()


async def test_handshakes_that_trickle_in_are_ended_and_hold_nobody_up(gateway: Bench) -> None:
    async with asyncio.TaskGroup() as group:
        slow = [group.create_task(trickle(gateway.port, HEAD[:60] + b"x")) for _ in range(50)]
        async with gateway.client() as client:
            await client.send(type="subscribe", product="BTC-USD")
            await client.of("snapshot")
    assert all(task.result()[:12] in (b"", b"HTTP/1.1 408") for task in slow)
    assert any(task.result() for task in slow)


async def test_a_connection_that_says_nothing_is_ended(gateway: Bench) -> None:
    reader, _writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    async with asyncio.timeout(WAIT_S):
        assert (await reader.read()).startswith(b"HTTP/1.1 408")
    _writer.close()


async def test_a_second_request_that_trickles_in_is_ended_too(gateway: Bench) -> None:
    first = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    endless = b"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"
    answer = await trickle(gateway.port, b"x", at_once=first + endless)
    assert b" 200 " in answer.split(b"\r\n")[0]


@pytest.mark.parametrize(
    "request_",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
        b"GET /ws HTTP/1.1\r\n" + b"X: y\r\n" * 50_000 + b"\r\n",
        b"GET /ws?" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"nonsense\r\n\r\n",
        HEAD + b"Sec-WebSocket-Version: 13\r\n\r\n",
        HEAD + b"Sec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n\r\n",
        HEAD + b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 7\r\n\r\n",
        b"GET /ws HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /ws?api_key=%ff%fe HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
async def test_a_handshake_that_is_none_is_refused(gateway: Bench, request_: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(request_)
    try:
        async with asyncio.timeout(WAIT_S):
            answer = await reader.readline()
    except ConnectionError:
        answer = b""
    finally:
        writer.close()
    assert b" 101 " not in answer
    assert b" 500 " not in answer


@pytest.mark.parametrize("offered", [["soap"], ["md.v2.json", "x"], ["md.v1.json", "soap"]])
async def test_unknown_subprotocols_are_not_chosen(gateway: Bench, offered: list[str]) -> None:
    # A client that insists on another one ends the connection by itself: none was agreed upon.
    async with gateway.client(subprotocols=offered) as client:
        chosen = client.socket.subprotocol
        await client.of("welcome")
    assert chosen == ("md.v1.json" if "md.v1.json" in offered else None)


@pytest.mark.parametrize("size", [2 * 1024 * 1024, 10 * 1024 * 1024])
@pytest.mark.parametrize("binary", [False, True])
async def test_frames_of_megabytes_end_their_connection_only(
    gateway: Bench, size: int, binary: bool
) -> None:
    async with gateway.client() as other, gateway.client() as client:
        await other.of("welcome")
        with suppress(ConnectionClosed):
            await client.socket.send(b"x" * size if binary else "x" * size)
        assert await client.closed() == 1009
        await other.send(type="ping")
        await other.of("pong")


async def test_thousands_of_subscribes_are_limited_and_answered(gateway: Bench) -> None:
    async with gateway.client() as client:
        for number in range(1000):
            await client.send(type="subscribe", id=number, product=f"P{number}-USD")
        answers = 0
        while answers < 1000:
            kind = (await client.receive())["type"]
            answers += kind in ("subscribed", "rate_limit")
        kinds = client.types()
        assert kinds.count("rate_limit") > 500
        assert kinds.count("subscribed") >= 200


async def test_many_who_come_and_go_leave_nothing_behind(gateway: Bench) -> None:
    async def visit(number: int) -> None:
        try:
            async with connect(f"ws://127.0.0.1:{gateway.port}/ws") as socket:
                await socket.send('{"type":"subscribe","product":"BTC-USD"}')
                if number % 3 == 0:
                    socket.transport.abort()
        except (ConnectionClosed, InvalidMessage, InvalidStatus, OSError):
            pass

    for _ in range(5):
        async with asyncio.TaskGroup() as group:
            for number in range(40):
                group.create_task(visit(number))
    subscriptions = gateway.gateway.parts.streams.feeds
    await eventually(lambda: all(feed.interest == 0 for feed in subscriptions.values()))


async def test_a_client_that_sends_and_never_reads_is_not_read_from_for_ever() -> None:
    # Every ping is answered, so that more waits for it than the kernel takes, however much that is.
    async with (
        bench(MemoryBroker(), ws_burst=1_000_000) as gateway,
        gateway.client(max_queue=1, close_timeout=0.2) as client,
    ):
        await client.of("welcome")
        (session,) = gateway.gateway.sessions

        async def flood() -> None:
            while True:
                await client.send(type="ping", ts="x" * 10_000)

        task = asyncio.create_task(flood())
        try:
            await eventually(lambda: session.outbox.control_size > 64_000)
            # Turns in which hundreds of others would be read and answered.
            for _ in range(1000):
                await asyncio.sleep(0)
            assert session.queued < 2_000_000
        finally:
            task.cancel()
            await asyncio.wait([task])
            client.socket.transport.abort()
