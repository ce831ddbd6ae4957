"""The ASGI calls that decide on handshakes have an owner, and a refused client keeps no memory."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import structlog
from uvicorn.config import Config
from uvicorn.server import ServerState

from services.gateway.admission.addresses import Proxies
from services.gateway.admission.http_limits import HttpLimits, Refusals
from services.gateway.testing import WAIT_S
from services.gateway.websocket.connection import WebSocketConnection
from services.gateway.websocket.rfc6455.keepalive import Keepalive
from services.gateway.websocket.server_context import ServerContext, run_handshake

_KEY = [(b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ=="), (b"sec-websocket-version", b"13")]


async def _fails() -> None:
    raise ZeroDivisionError


@pytest.mark.parametrize("late", [False, True], ids=["at once", "after a wait"])
async def test_how_a_handshake_failed_is_logged_and_its_connection_ended(late: bool) -> None:
    tasks: set[asyncio.Task[None]] = set()
    go, failed = asyncio.Event(), asyncio.Event()

    async def call() -> None:
        if late:
            await go.wait()
        await _fails()

    with structlog.testing.capture_logs() as lines:
        run_handshake(call(), tasks, failed.set)
        assert len(tasks) == late
        go.set()
        async with asyncio.timeout(WAIT_S):
            await failed.wait()
    assert not tasks
    assert [line["event"] for line in lines] == ["handshake_failed"]


async def test_a_handshake_that_the_stopping_server_cancels_is_no_failure() -> None:
    tasks: set[asyncio.Task[None]] = set()
    failed: list[bool] = []

    async def call() -> None:
        await asyncio.Event().wait()

    run_handshake(call(), tasks, lambda: failed.append(True))
    (task,) = tasks
    task.cancel()
    await asyncio.wait((task,))
    await asyncio.sleep(0)
    assert (tasks, failed) == (set(), [])


class Sink(asyncio.Transport):
    """Takes everything; knows whether it is read from."""

    def __init__(self) -> None:
        super().__init__({"peername": None})
        self.reading = True
        self.written = b""

    def write(self, data: Any) -> None:
        self.written += data

    def write_eof(self) -> None: ...

    def can_write_eof(self) -> bool:
        return True

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...


async def test_what_a_refused_client_goes_on_sending_is_thrown_away_and_then_not_read() -> None:
    # Breaks when bytes that came before the answer make all that follow them wait for a reader.
    decide = asyncio.Event()

    async def refuses(_scope: Any, _receive: Any, send: Any) -> None:
        await decide.wait()
        await send({"type": "websocket.close"})

    loop, state, transport = asyncio.get_running_loop(), ServerState(), Sink()
    context = ServerContext(
        Config(refuses, log_config=None, interface="asgi3"),
        state,
        {},
        loop,
        Keepalive(WAIT_S, WAIT_S, loop.call_later, loop.time),
        Proxies(()),
        HttpLimits(1, 1, 1),
        Refusals(loop.time, lambda _reason: None),
    )
    context.config.load()
    connection = WebSocketConnection(context, transport)
    names = ("server", "client", "root_path", "path", "raw_path", "query_string")
    request = {**dict.fromkeys(names), "method": "GET", "http_version": "1.1", "scheme": "http"}
    connection.upgrade({**request, "headers": _KEY}, b"early")
    (task,) = state.tasks
    decide.set()
    await asyncio.wait((task,))
    assert transport.written.startswith(b"HTTP/1.1 403 ")
    megabyte = bytes(1024 * 1024)
    for _ in range(20):
        connection.data_received(megabyte)
    assert not transport.reading
    connection.connection_lost(None)
