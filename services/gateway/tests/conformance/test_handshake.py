"""The opening handshake, case by case over real sockets; each names the section that demands it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from services.common.runtime import serve_http
from services.gateway.testing import eventually
from services.gateway.testing.wire import HANDSHAKE, TEXT, RawClient, close_frame, frame
from services.gateway.tests.conformance.servers import OTHER, OURS, echo, ours
from services.gateway.websocket.connection import WebSocketConnection
from services.gateway.websocket.ends import EXTENSION

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def refusal(scope: Any, receive: Any, send: Any) -> None:
    """One that never accepts, in the way its path asks for."""
    await asyncio.sleep(0)
    match scope["path"]:
        case "/close":
            await send({"type": "websocket.close", "code": 1008})
        case "/answer":
            start = {"type": "websocket.http.response.start", "status": 418, "headers": []}
            await send(start)
            body = {"type": "websocket.http.response.body", "more_body": True}
            await send({**body, "body": b"short "})
            await send({**body, "body": b"and stout", "more_body": False})
        case "/fail":
            raise ZeroDivisionError
    # "/return": nothing at all.


async def handshake(port: int, request: bytes) -> bytes:
    async with await RawClient.open(port) as client:
        await client.write(request)
        return await client.head()


def changed(old: bytes, new: bytes) -> bytes:
    assert old in HANDSHAKE
    return HANDSHAKE.replace(old, new)


KEY = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
VERSION = b"Sec-WebSocket-Version: 13\r\n"
# 4.2.1 and 4.2.2: what a server has to look at, and how it answers.
REFUSED = {
    "4.2.1 no key": (changed(KEY, b""), 400),
    "4.2.1 a key of 15 bytes": (changed(b"ZQ==", b"Z"), 400),
    "4.2.1 a key that is no base64": (changed(b"dGhl", b"!!!!"), 400),
    "4.2.1 two keys": (changed(KEY, KEY * 2), 400),
    "4.2.2 no version": (changed(VERSION, b""), 426),
    "4.4 version 8": (changed(b": 13", b": 8"), 426),
    "4.4 two versions": (changed(VERSION, VERSION * 2), 426),
    "4.2.1 HTTP/1.0": (changed(b"HTTP/1.1", b"HTTP/1.0"), 505),
    "4.2.1 a POST": (changed(b"GET /ws", b"POST /ws"), 405),
    "4.2.1 no host": (changed(b"Host: x\r\n", b""), 400),
    "RFC 9112 a header without a name": (changed(KEY, KEY + b": y\r\n"), 400),
    "RFC 9112 a space in a name": (changed(KEY, KEY + b"X Y: y\r\n"), 400),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_a_handshake_that_is_none_gets_an_http_answer(
    port: int, kind: str, case: str
) -> None:
    request, status = REFUSED[case]
    answered = int((await handshake(port, request)).split()[1])
    # Others are laxer, which is theirs to answer for.
    assert answered == status or kind == OTHER


@pytest.mark.parametrize(
    "request_",
    [
        changed(KEY, KEY + b"X: " + b"y" * 70_000 + b"\r\n"),
        changed(KEY, KEY + b"X: y\r\n" * 20_000),
        changed(b"/ws", b"/ws?" + b"y" * 70_000),
        changed(b"\r\n\r\n", b"\r\nX: " + b"y" * 70_000),
    ],
    ids=["a header", "headers", "a path", "a header without an end"],
)
async def test_a_handshake_that_is_too_long_is_not_taken(
    port: int, kind: str, request_: bytes
) -> None:
    # RFC 6585, 5. Who still sends is cut off, and may not read the answer.
    if kind in OURS:
        try:
            head = await handshake(port, request_)
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        assert int(head.split()[1]) in (400, 431)


async def test_another_version_is_told_which_one_is_spoken(port: int, kind: str) -> None:
    # 4.4: and by 426, which RFC 6455 only suggests.
    if kind in OURS:
        head = await handshake(port, changed(b": 13", b": 8"))
        assert head.startswith(b"HTTP/1.1 426 ")
        assert b"\r\nsec-websocket-version: 13\r\n" in head


@pytest.mark.parametrize("chop", [None, 1], ids=["whole", "byte by byte"])
async def test_the_answer_is_made_of_the_key(port: int, chop: int | None) -> None:
    # 1.3: the sample nonce and what a server has to make of it.
    async with await RawClient.open(port) as client:
        await client.write(HANDSHAKE, chop)
        head = (await client.head()).lower()
        assert head.startswith(b"http/1.1 101 ")
        assert b"\r\nsec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n" in head
        assert b"\r\nupgrade: websocket\r\n" in head
        assert b"\r\nconnection: upgrade\r\n" in head
        assert b"sec-websocket-protocol" not in head
        assert b"sec-websocket-extensions" not in head
        await client.write(frame(TEXT, b"it works"))
        assert await client.frame() == (TEXT, b"it works")


@pytest.mark.parametrize(
    "request_",
    [
        changed(b"Upgrade: websocket", b"upgrade: WebSocket"),
        changed(b"Connection: Upgrade", b"CONNECTION: keep-alive, UPGRADE"),
        changed(KEY, KEY + b"X-Anything:   at all  \r\nCookie: a=b\r\n"),
        changed(b"/ws", b"/ws?x=%2F&y=%ff"),
    ],
)
async def test_names_and_tokens_are_compared_without_case(port: int, request_: bytes) -> None:
    # 4.2.1: and other headers do not matter.
    assert (await handshake(port, request_)).startswith(b"HTTP/1.1 101 ")


async def test_frames_that_come_with_the_handshake_are_not_lost(port: int, kind: str) -> None:
    # 4.1 has clients wait for the answer; one that does not is served all the same.
    if kind in OURS:
        async with await RawClient.open(port) as client:
            await client.write(HANDSHAKE + frame(TEXT, b"early"))
            assert (await client.head()).startswith(b"HTTP/1.1 101 ")
            assert await client.frame() == (TEXT, b"early")


async def test_an_application_may_think_before_it_accepts() -> None:
    decide = asyncio.Event()
    thinking: asyncio.Future[WebSocketConnection] = asyncio.get_running_loop().create_future()

    async def late_echo(scope: Any, receive: Any, send: Any) -> None:
        thinking.set_result(scope["extensions"][EXTENSION])
        await decide.wait()
        await echo(scope, receive, send)

    async with (
        serve_http(late_echo, "127.0.0.1", 0, lifespan="off", **ours()) as port,
        await RawClient.open(port) as client,
    ):
        await client.write(HANDSHAKE)
        connection = await thinking
        # Sent before the answer: one is read, and nothing more; the other waits in the socket.
        await client.write(frame(TEXT, b"one"))
        await eventually(lambda: not connection.transport.is_reading())
        await client.write(frame(TEXT, b"two"))
        decide.set()
        assert (await client.head()).startswith(b"HTTP/1.1 101 ")
        assert await client.frame() == (TEXT, b"one")
        assert await client.frame() == (TEXT, b"two")
        await client.write(close_frame(1000))
        assert await client.close_code() == 1000


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        (b"/close", 403, b""),
        (b"/answer", 418, b"short and stout"),
        (b"/return", 500, b""),
        (b"/fail", 500, b""),
    ],
)
async def test_an_application_that_does_not_accept_answers_by_http(
    path: bytes, status: int, body: bytes
) -> None:
    async with (
        serve_http(refusal, "127.0.0.1", 0, lifespan="off", **ours()) as port,
        await RawClient.open(port) as client,
    ):
        await client.write(changed(b"/ws", path))
        head = await client.head()
        assert int(head.split()[1]) == status
        assert b"content-length: %d\r\n" % len(body) in head
        assert await client.reader.read() == body


@pytest.mark.parametrize(
    ("offer", "agreed"),
    [
        (b"permessage-deflate", True),
        (b"x-webkit-frame, permessage-deflate; client_max_window_bits", True),
        (b"permessage-deflate; server_max_window_bits=9", True),
        (b"permessage-deflate; nonsense, permessage-deflate", True),
        (b"permessage-deflate; nonsense", False),
        (b"permessage-deflate; server_max_window_bits=7", False),
        (b";;;", False),
    ],
)
async def test_compression_is_agreed_upon_without_context(
    port: int, kind: str, offer: bytes, agreed: bool
) -> None:
    if kind in OURS:
        request = changed(KEY, KEY + b"Sec-WebSocket-Extensions: " + offer + b"\r\n")
        head = await handshake(port, request)
        assert head.startswith(b"HTTP/1.1 101 ")
        assert (b"server_no_context_takeover" in head) == agreed
        assert (b"client_no_context_takeover" in head) == agreed
