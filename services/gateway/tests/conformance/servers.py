"""The servers whose conformance is tested: an echo, by each way to serve one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from services.common.runtime import serve_http
from services.gateway.admission.addresses import Proxies
from services.gateway.admission.http_limits import HttpLimits
from services.gateway.http.ws_endpoint import TOO_LARGE_MESSAGE
from services.gateway.testing import WAIT_S
from services.gateway.websocket.asgi import AsgiTransport
from services.gateway.websocket.connection import WebSocketConnection
from services.gateway.websocket.ends import EXTENSION
from services.gateway.websocket.http_front import ProtocolFactory
from services.gateway.websocket.rfc6455.frames import text_frame
from services.gateway.websocket.server_context import ReadLimits
from services.gateway.websocket.transport import ClientTransport, TransportListener

MAX_BYTES = 100_000
# Our server with an application that stays, the same with a listener that takes over, and another
# server, over which the gateway works too.
CALL, TAKEN, OTHER = "our server, an ASGI call", "our server, a listener", "another server"
OURS = (CALL, TAKEN)


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """What comes goes back, by ASGI alone."""
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})


class Echo(TransportListener):
    """The same, called back by a link."""

    def __init__(self, link: ClientTransport, send_binary: Any) -> None:
        self.link = link
        self.send_binary = send_binary

    def on_text(self, text: str) -> None:
        self.link.write(text_frame(text.encode()))

    def on_binary(self, data: bytes) -> None:
        self.send_binary(data)

    def on_pause(self) -> None:
        pass

    def on_resume(self) -> None:
        pass

    def on_closed(self) -> None:
        pass


async def echo_by_listener(scope: Any, receive: Any, send: Any) -> None:
    link = scope["extensions"][EXTENSION]
    assert isinstance(link, WebSocketConnection)
    await send({"type": "websocket.accept"})
    link.hand_over(Echo(link, link.write_binary))


async def echo_by_asgi_link(scope: Any, receive: Any, send: Any) -> None:
    assert EXTENSION not in scope["extensions"]
    await receive()
    await send({"type": "websocket.accept"})
    link = AsgiTransport(receive, send)
    async with asyncio.TaskGroup() as group:

        def send_binary(data: bytes) -> None:
            group.create_task(send({"type": "websocket.send", "bytes": data}))

        await link.run(Echo(link, send_binary))


def ours() -> dict[str, Any]:
    protocols = ProtocolFactory(
        handshake_s=WAIT_S,
        ping_interval_s=WAIT_S,
        ping_timeout_s=WAIT_S,
        limits=HttpLimits(1000, 64 * 1024 * 1024, WAIT_S),
        proxies=Proxies(()),
        on_refused=lambda _reason: None,
        # A case may take as long as the machine does.
        reading=ReadLimits(MAX_BYTES, message_s=WAIT_S, too_large=TOO_LARGE_MESSAGE),
        deflate=True,
    )
    return {"http": protocols}


@asynccontextmanager
async def served(kind: str) -> AsyncIterator[int]:
    """An echo server; yields its port."""
    apps = {CALL: echo, TAKEN: echo_by_listener, OTHER: echo_by_asgi_link}
    options: dict[str, Any] = {
        "ws": "websockets-sansio",
        "ws_max_size": MAX_BYTES,
        "ws_per_message_deflate": False,
    }
    if kind in OURS:
        options = ours()
    async with serve_http(apps[kind], "127.0.0.1", 0, lifespan="off", **options) as port:
        yield port
