"""What HTTP on the gateway's port may hold and for how long."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from uvicorn.config import Config
from uvicorn.server import ServerState

from services.common.stream.memory.broker import MemoryBroker
from services.gateway.admission.addresses import Proxies
from services.gateway.admission.http_limits import SLOWEST_BYTES_PER_S, HttpLimits, Refusals
from services.gateway.testing import WAIT_S, Bench, bench, eventually
from services.gateway.tests.test_http_strict import HOST, said
from services.gateway.websocket.http_connection import HttpConnection, _SafeWriter
from services.gateway.websocket.server_context import ServerContext, TurnQueue


async def _asked(port: int, count: int, path: bytes = b"/openapi.json") -> list[socket.socket]:
    """Connections that ask much and read nothing."""
    loop = asyncio.get_running_loop()
    found: list[socket.socket] = []
    for _ in range(count):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        await loop.sock_connect(sock, ("127.0.0.1", port))
        await loop.sock_sendall(sock, (b"GET " + path + b" HTTP/1.1\r\n" + HOST + b"\r\n") * 300)
        found.append(sock)
    return found


async def _ended(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(WAIT_S):
            while await loop.sock_recv(sock, 65_536):
                pass
    except ConnectionError:
        pass


def _refused(gateway: Bench, reason: str) -> Callable[[], float]:
    counter: Any = gateway.gateway.metrics.http_refused.labels(reason)._value
    begun = counter.get()
    return lambda: float(counter.get() - begun)


async def test_who_does_not_read_an_answer_is_dropped_after_the_time_of_the_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTP_WRITE_TIMEOUT_S", "0.2")
    async with (
        bench(MemoryBroker(), http_write_timeout_s=3600) as patient,
        bench(MemoryBroker()) as gateway,
    ):
        waited, slow = _refused(patient, "slow_reader"), _refused(gateway, "slow_reader")
        (held,) = await _asked(patient.port, 1)
        async with asyncio.timeout(WAIT_S):
            assert await asyncio.get_running_loop().sock_recv(held, 1)
        (sock,) = await _asked(gateway.port, 1)
        await eventually(lambda: slow() == 1)
        # By any time that is not its own it would have been dropped first: it was asked first.
        assert waited() == 0
        held.close()
        sock.close()
        assert (await said(gateway.port, b"GET /healthz HTTP/1.0\r\n\r\n")).startswith(
            b"HTTP/1.1 2"
        )


async def test_connections_that_speak_http_are_bounded_and_websockets_are_none_of_them() -> None:
    async with bench(MemoryBroker(), http_max_connections=2) as gateway:
        refused = _refused(gateway, "connections")
        held = await _asked(gateway.port, 2)
        for sock in held:
            # Its first request is answered: it has its place.
            async with asyncio.timeout(WAIT_S):
                assert await asyncio.get_running_loop().sock_recv(sock, 1)
        answer = await said(gateway.port, b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n")
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"retry-after" in answer
        async with gateway.client() as client:
            await client.of("welcome")
        for sock in held:
            sock.close()

        async def free() -> bool:
            ask = b"GET /healthz HTTP/1.0\r\n\r\n"
            return (await said(gateway.port, ask)).startswith(b"HTTP/1.1 200")

        async with asyncio.timeout(WAIT_S):
            while not await free():  # noqa: ASYNC110 - the server's own state
                await asyncio.sleep(0)
    assert refused() >= 1


sizes = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 900)), max_size=40)


@given(sizes)
def test_what_waits_is_bounded_and_who_holds_most_pays(asked: list[tuple[int, int]]) -> None:
    limits = HttpLimits(10, 1000, 20)
    waiting: dict[int, tuple[str, int]] = {}
    for number, (address, size) in enumerate(asked):
        waiting[number] = (str(address), size)
        for gone in limits.hold(number, str(address), size):
            totals: dict[str, int] = {}
            for where, held in waiting.values():
                totals[where] = totals.get(where, 0) + held
            assert isinstance(gone, int)
            where, _ = waiting.pop(gone)
            assert totals[where] == max(totals.values())
        assert limits.held_bytes == sum(held for _, held in waiting.values()) <= 1000
    for number in waiting:
        limits.drained(number)
    assert limits.held_bytes == 0


def test_a_large_answer_has_the_time_that_a_slow_line_takes() -> None:
    limits = HttpLimits(10, 1000, 20)
    assert limits.seconds(0) == 20
    assert limits.seconds(10 * SLOWEST_BYTES_PER_S) == 30


async def _never(_scope: Any, _receive: Any, _send: Any) -> None:
    await asyncio.Event().wait()


class Nobody:
    """A keepalive of no one."""

    def remove(self, one: Any) -> None: ...


class Stuck(asyncio.Transport):
    """Takes and gives nothing; knows whether it is read from."""

    def __init__(self) -> None:
        super().__init__()
        self.reading = True

    def is_reading(self) -> bool:
        return self.reading

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_closing(self) -> bool:
        return False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def write(self, data: Any) -> None: ...

    def close(self) -> None: ...


async def test_requests_behind_one_that_is_not_answered_wait_unread() -> None:
    # Breaks when each of thousands that came in one read is begun at once.
    begun: list[HttpConnection] = []

    class Counting(HttpConnection):
        def on_headers_complete(self) -> None:
            begun.append(self)
            super().on_headers_complete()

    loop = asyncio.get_running_loop()
    transport: Any = Stuck()
    config = Config(_never, log_config=None, interface="asgi3")
    nobody: Any = Nobody()
    state = ServerState()
    context = ServerContext(
        config,
        state,
        {},
        loop,
        nobody,
        Proxies(()),
        HttpLimits(1, 1, 1),
        Refusals(loop.time, lambda _reason: None),
    )
    config.load()
    one = Counting(20, context, loop.time() + 20)
    one.connection_made(transport)
    one.data_received((b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n") * 1000)
    assert 0 < len(begun) < 30
    assert not transport.is_reading()
    transport.is_closing = lambda: True
    one.connection_lost(None)
    tasks = list(state.tasks)
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def test_first_words_are_heard_a_few_in_a_turn() -> None:
    arrivals = TurnQueue(20)
    heard: list[int] = []
    for number in range(100):
        arrivals.add(partial(heard.append, number))
    assert len(heard) == 20
    await asyncio.sleep(0)
    assert len(heard) == 40
    async with asyncio.timeout(WAIT_S):
        while len(heard) < 100:  # noqa: ASYNC110 - a turn of the loop is what is waited for
            await asyncio.sleep(0)
    assert heard == list(range(100))
    await asyncio.sleep(0)
    arrivals.add(lambda: heard.append(100))
    assert heard[-1] == 100


async def test_an_answer_to_who_has_gone_is_no_error() -> None:
    # uvloop's transports raise when they are written to between the end and its telling.
    transport: Any = Stuck()
    writer = _SafeWriter(transport)
    writer.write(b"x")

    def gone(_data: bytes) -> None:
        raise RuntimeError("the handler is closed")

    transport.write = gone
    transport.is_closing = lambda: True
    writer.write(b"x")
