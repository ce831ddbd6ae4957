"""WebSocket conformance, case by case over real sockets, against an echo application.

The cases are those that conformance suites for RFC 6455 are made of; each names the section that
demands it. What is asserted is what came over the wire: every frame, the close code, the end.
"""

from __future__ import annotations

import asyncio
import struct
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from services.common.runtime import serve_http
from services.gateway.admission.addresses import Proxies
from services.gateway.admission.http_limits import HttpLimits
from services.gateway.http.ws_endpoint import TOO_LARGE_MESSAGE
from services.gateway.testing import WAIT_S, eventually
from services.gateway.testing.wire import (
    BINARY,
    CLOSE,
    CONT,
    HANDSHAKE,
    PING,
    PONG,
    TEXT,
    RawClient,
    close_frame,
    frame,
)
from services.gateway.websocket.asgi_transport import AsgiTransport
from services.gateway.websocket.connection import WebSocketConnection
from services.gateway.websocket.http_front import ProtocolFactory
from services.gateway.websocket.opening import EXTENSION
from services.gateway.websocket.rfc6455.frames import text_frame
from services.gateway.websocket.server_context import ReadLimits
from services.gateway.websocket.transport import ClientTransport, TransportListener

MAX_BYTES = 100_000
TAIL = b"\x00\x00\xff\xff"
WITH_DEFLATE = HANDSHAKE.replace(
    b"\r\n\r\n", b"\r\nSec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n"
)
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


# One server of each kind serves all cases: what one client does is nothing to the next.
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(params=[*OURS, OTHER], scope="module")
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def port(kind: str) -> AsyncIterator[int]:
    async with served(kind) as port:
        yield port


@dataclass(frozen=True)
class Case:
    """What a client sends, and every frame that it gets for it.

    Attributes:
        section: of RFC 6455.
        what: in words.
        sent: bytes on the wire.
        got: frames before the close, opcode and payload.
        code: of the server's close frame; None: the client closes with 1000 at the end, and that
            is echoed.
        body: the whole payload of the server's close frame, where more than the code matters.
        kinds: servers that it applies to.
    """

    section: str
    what: str
    sent: bytes
    got: tuple[tuple[int, bytes], ...] = ()
    code: int | None = None
    body: bytes | None = None
    kinds: tuple[str, ...] = (*OURS, OTHER)

    def __str__(self) -> str:
        return f"{self.section} {self.what}"


def lengths() -> list[Case]:
    """5.2: the three forms of a length, at their edges."""
    return [
        Case(
            "5.2",
            f"a {name} message of {size} bytes",
            frame(opcode, b"*" * size),
            ((opcode, b"*" * size),),
        )
        for size in (0, 1, 125, 126, 127, 128, 65_535, 65_536, MAX_BYTES)
        for opcode, name in ((TEXT, "text"), (BINARY, "binary"))
    ]


def fragments() -> list[Case]:
    """5.4: messages in pieces, with control frames in between."""
    letters = b"fragmentation"
    pieces = [letters[at : at + 1] for at in range(len(letters))]
    one_by_one = frame(TEXT, pieces[0], fin=False)
    one_by_one += b"".join(frame(CONT, piece, fin=False) for piece in pieces[1:])
    with_pings = frame(TEXT, b"a", fin=False) + frame(PING, b"1") + frame(CONT, b"b", fin=False)
    with_pings += frame(PING, b"2") + frame(CONT, b"c")
    return [
        Case(
            "5.4",
            "a text in two pieces",
            frame(TEXT, b"ab", fin=False) + frame(CONT, b"cd"),
            ((TEXT, b"abcd"),),
        ),
        Case(
            "5.4",
            "a binary in two pieces",
            frame(BINARY, b"\xff\0", fin=False) + frame(CONT, b"\xfe"),
            ((BINARY, b"\xff\0\xfe"),),
        ),
        Case("5.4", "a piece a letter", one_by_one + frame(CONT), ((TEXT, letters),)),
        Case(
            "5.4",
            "empty pieces only",
            frame(TEXT, fin=False) + frame(CONT, fin=False) + frame(CONT),
            ((TEXT, b""),),
        ),
        Case(
            "5.4",
            "pings between the pieces are answered before the message",
            with_pings,
            ((PONG, b"1"), (PONG, b"2"), (TEXT, b"abc")),
        ),
        Case(
            "5.4",
            "two messages in pieces, one after the other",
            (frame(TEXT, b"a", fin=False) + frame(CONT, b"b")) * 2,
            ((TEXT, b"ab"), (TEXT, b"ab")),
        ),
        Case("5.4", "a continuation of nothing", frame(CONT, b"a"), code=1002),
        Case("5.4", "an open continuation of nothing", frame(CONT, b"a", fin=False), code=1002),
        Case(
            "5.4",
            "a continuation after a whole message",
            frame(TEXT, b"a") + frame(CONT, b"b"),
            ((TEXT, b"a"),),
            code=1002,
            # By ASGI an answer comes a turn of the loop later, when the connection is over.
            kinds=(TAKEN,),
        ),
        Case(
            "5.4",
            "a new message inside another one",
            frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"),
            code=1002,
        ),
        Case(
            "5.4",
            "a new binary inside a text",
            frame(TEXT, b"a", fin=False) + frame(BINARY, b"b"),
            code=1002,
        ),
    ]


def control() -> list[Case]:
    """5.5: pings, pongs, and what they may not be."""
    full = b"\xfe" * 125
    many = tuple((PONG, b"%d" % n) for n in range(20))
    return [
        Case("5.5.2", "a ping without payload", frame(PING), ((PONG, b""),)),
        Case("5.5.2", "a ping with any bytes", frame(PING, b"\0\xff"), ((PONG, b"\0\xff"),)),
        Case("5.5.2", "a ping of 125 bytes", frame(PING, full), ((PONG, full),)),
        Case(
            "5.5.2",
            "twenty pings in one write, answered in order",
            b"".join(frame(PING, payload) for _, payload in many),
            many,
        ),
        Case("5.5.3", "a pong nobody asked for", frame(PONG, b"x") + frame(PING), ((PONG, b""),)),
        Case("5.5", "a ping of 126 bytes", frame(PING, b"x" * 126), code=1002),
        Case("5.5", "a pong of 126 bytes", frame(PONG, b"x" * 126), code=1002),
        Case("5.5", "a ping in pieces", frame(PING, b"x", fin=False), code=1002),
        Case("5.5", "a pong in pieces", frame(PONG, b"x", fin=False), code=1002),
        Case(
            "5.5",
            "a close in pieces",
            frame(CLOSE, struct.pack("!H", 1000), fin=False),
            code=1002,
        ),
    ]


def closing() -> list[Case]:
    """5.5.1 and 7.4: who closes says why, and hears it back."""
    valid = (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014)
    registered = (3000, 3999, 4000, 4999)
    invalid = (0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535)
    longest = struct.pack("!H", 1000) + b"r" * 123
    snowman = struct.pack("!H", 1000) + "☃".encode()
    return [
        *(
            Case("7.4", f"close {code} is echoed", close_frame(code), code=code)
            for code in valid + registered
        ),
        *(
            Case("7.4", f"close {code} is no code to send", close_frame(code), code=1002)
            for code in invalid
        ),
        Case("5.5.1", "a close without a code", frame(CLOSE), body=b"", code=1005),
        Case("5.5.1", "a close of one byte", frame(CLOSE, b"\x03"), code=1002),
        Case("5.5.1", "a reason", frame(CLOSE, snowman), code=1000, body=snowman),
        Case("5.5.1", "the longest reason", frame(CLOSE, longest), code=1000, body=longest),
        Case("5.5", "a reason that is too long", frame(CLOSE, longest + b"r"), code=1002),
        Case("8.1", "a reason that is no UTF-8", close_frame(1000, b"\xce\xba\xed\xa0"), code=1007),
        Case(
            "5.5.1",
            "nothing is answered after a close",
            close_frame(1000) + frame(TEXT, b"late") + frame(PING, b"late") + close_frame(1001),
            code=1000,
        ),
        Case(
            "5.5.1",
            "what came before a close is answered first",
            frame(PING, b"1") + close_frame(1001),
            ((PONG, b"1"),),
            code=1001,
        ),
        Case(
            "5.4",
            "a close between the pieces of a message",
            frame(TEXT, b"a", fin=False) + close_frame(1000),
            code=1000,
            # websockets takes the message that never ends for an error (1002).
            kinds=OURS,
        ),
    ]


# Hello-µ@ßöäüàá-UTF-8!! and the edges of every length of a code point.
FINE = (
    "Hello-µ@ßöäüàá-UTF-8!!",
    "κόσμε",
    "\0\x7f\x80\u07ff\u0800\uffff\U00010000\U0010ffff",
    "\ud7ff\ue000\ufffd",
)
BROKEN = {
    "a stray continuation byte": b"a\x80",
    "an impossible byte": b"a\xff",
    "an overlong slash": b"\xc0\xaf",
    "an overlong of three": b"\xe0\x80\xaf",
    "a surrogate": b"\xed\xa0\x80",
    "a pair of surrogates": b"\xed\xa0\x80\xed\xb0\x80",
    "beyond U+10FFFF": b"\xf4\x90\x80\x80",
    "five bytes": b"\xf8\x88\x80\x80\x80",
    "cut off at its end": "κόσμε".encode()[:-1],
    "in the middle of good text": "κόσμε".encode() + b"\xed\xa0\x80" + b"edited",
}


def utf8() -> list[Case]:
    """8.1: text is UTF-8, wherever it is cut."""
    found: list[Case] = []
    for text in FINE:
        data = text.encode(errors="surrogatepass")
        in_bytes = [data[at : at + 1] for at in range(len(data))]
        pieces = frame(TEXT, in_bytes[0], fin=False)
        pieces += b"".join(frame(CONT, piece, fin=False) for piece in in_bytes[1:]) + frame(CONT)
        found += [
            Case("8.1", f"{text!a} whole", frame(TEXT, data), ((TEXT, data),)),
            Case("8.1", f"{text!a} a byte a piece", pieces, ((TEXT, data),)),
        ]
    for name, data in BROKEN.items():
        half = len(data) // 2
        pieces = frame(TEXT, data[:half], fin=False) + frame(CONT, data[half:])
        found += [
            Case("8.1", f"{name}, whole", frame(TEXT, data), code=1007),
            Case("8.1", f"{name}, in two pieces", pieces, code=1007),
            Case("5.6", f"{name}, but binary", frame(BINARY, data), ((BINARY, data),)),
        ]
    found.append(
        Case(
            "8.1",
            "a broken piece ends it before the message is whole",
            frame(TEXT, b"a\xff", fin=False),
            code=1007,
            # uvicorn looks at whole messages.
            kinds=OURS,
        )
    )
    return found


def reserved() -> list[Case]:
    """5.1 and 5.2: masks, reserved bits, reserved opcodes."""
    return [
        Case("5.1", "an unmasked text", frame(TEXT, b"a", masked=False), code=1002),
        Case("5.1", "an unmasked ping", frame(PING, masked=False), code=1002),
        Case("5.1", "an unmasked close", frame(CLOSE, b"\x03\xe8", masked=False), code=1002),
        Case("5.3", "a mask of zeros", frame(TEXT, b"abc", mask=bytes(4)), ((TEXT, b"abc"),)),
        *(
            Case(
                "5.2", f"reserved bits {rsv:03b} on {name}", frame(opcode, b"a", rsv=rsv), code=1002
            )
            for rsv in (1, 2, 4, 7)
            for opcode, name in ((TEXT, "text"), (PING, "ping"), (CLOSE, "close"))
        ),
        *(
            Case("5.2", f"reserved opcode {opcode}", frame(opcode, b"a"), code=1002)
            for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)
        ),
    ]


def too_big() -> list[Case]:
    """7.4.1 and 10.4: what is larger than this endpoint takes."""
    piece = b"x" * (MAX_BYTES // 2 + 1)
    return [
        Case("10.4", "only announced", frame(TEXT, b"", size=MAX_BYTES + 1), code=1009),
        Case("10.4", "announced as 2**62", frame(BINARY, b"", size=2**62), code=1009),
        Case(
            "10.4",
            "too much in all pieces together",
            frame(TEXT, piece, fin=False) + frame(CONT, piece, fin=False),
            code=1009,
        ),
        Case(
            "10.4",
            "after whole messages",
            frame(PING, b"a") + frame(TEXT, b"", size=MAX_BYTES + 1),
            ((PONG, b"a"),),
            code=1009,
        ),
    ]


CASES = [
    *lengths(),
    *fragments(),
    *control(),
    *closing(),
    *utf8(),
    *reserved(),
    *too_big(),
]


def deflated(data: bytes) -> bytes:
    """RFC 7692, 7.2.1."""
    compress = zlib.compressobj(wbits=-12)
    return (compress.compress(data) + compress.flush(zlib.Z_SYNC_FLUSH)).removesuffix(TAIL)


def compressed() -> list[Case]:
    """RFC 7692: messages that are compressed, each on its own."""
    text = ("compressed µ " * 50).encode()
    body = deflated(text)
    third = len(body) // 3
    pieces = frame(TEXT, body[:third], fin=False, rsv=4) + frame(PING, b"p")
    pieces += frame(CONT, body[third:])
    return [
        Case("7692-6.2", "a whole message", frame(TEXT, body, rsv=4), ((TEXT, text),)),
        Case(
            "7692-6.2",
            "the same again, and a plain one",
            frame(TEXT, body, rsv=4) * 2 + frame(TEXT, b"plain"),
            ((TEXT, text), (TEXT, text), (TEXT, b"plain")),
        ),
        Case("7692-6.1", "in pieces", pieces, ((PONG, b"p"), (TEXT, text))),
        Case("7692-7.2.3.6", "an empty one", frame(TEXT, b"\0", rsv=4), ((TEXT, b""),)),
        Case("7692-6.2", "binary", frame(BINARY, deflated(b"\xff"), rsv=4), ((BINARY, b"\xff"),)),
        Case("7692-6.2", "not deflated at all", frame(TEXT, b"\xff" * 20, rsv=4), code=1007),
        Case("8.1", "no UTF-8 when inflated", frame(TEXT, deflated(b"\xff"), rsv=4), code=1007),
        Case(
            "10.4",
            "a bomb",
            frame(BINARY, deflated(bytes(MAX_BYTES + 1)), rsv=4),
            code=1009,
        ),
        Case("7692-6", "RSV1 on a ping", frame(PING, rsv=4), code=1002),
        Case(
            "7692-6.1",
            "RSV1 on a continuation",
            frame(TEXT, body, fin=False, rsv=4) + frame(CONT, rsv=4),
            code=1002,
        ),
        Case("7692-6", "other reserved bits", frame(TEXT, body, rsv=6), code=1002),
    ]


def payload_of(frames: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    return [(opcode, payload) for opcode, payload in frames if opcode != CLOSE]


async def check(port: int, case: Case, chop: int | None, handshake: bytes = HANDSHAKE) -> None:
    async with await RawClient.connect(port, handshake) as client:
        await client.write(case.sent, chop)
        if case.code is None:
            for expected in case.got:
                assert await client.frame() == expected
            await client.write(close_frame(1000), chop)
        frames = await client.frames()
    closes = [payload for opcode, payload in frames if opcode == CLOSE]
    assert len(closes) == 1, f"{len(closes)} close frames"
    assert frames[-1][0] == CLOSE, "nothing comes after a close frame"
    if case.code is None:
        assert frames == [(CLOSE, struct.pack("!H", 1000))]
        return
    # A size that is refused is also told of in a message of the gateway's own protocol.
    told = [f for f in payload_of(frames) if b'"too_large"' not in f[1]]
    assert told == list(case.got)
    if case.body is not None:
        assert closes[0] == case.body
    else:
        assert struct.unpack("!H", closes[0][:2]) == (case.code,)
    closes[0][2:].decode()


@pytest.mark.parametrize("case", CASES, ids=str)
async def test_case(port: int, kind: str, case: Case) -> None:
    if kind in case.kinds:
        await check(port, case, None)


@pytest.mark.parametrize("case", [case for case in CASES if len(case.sent) < 1000], ids=str)
async def test_case_byte_by_byte(port: int, kind: str, case: Case) -> None:
    # Other servers close at once where a client is at fault, which resets the connection under
    # what it still sends: it may never read why.
    if kind in case.kinds and (kind in OURS or case.code is None):
        await check(port, case, 1)


@pytest.mark.parametrize("case", compressed(), ids=str)
@pytest.mark.parametrize("chop", [None, 1], ids=["whole", "byte by byte"])
async def test_compressed(port: int, kind: str, case: Case, chop: int | None) -> None:
    if kind in OURS:
        await check(port, case, chop, WITH_DEFLATE)


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
