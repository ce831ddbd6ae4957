"""HTTP as RFC 9112 asks, at the public port: what can be read in two ways is not read at all."""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
import structlog

from services.common.stream.memory.broker import MemoryBroker
from services.gateway.testing import WAIT_S, Bench, bench, eventually
from services.gateway.testing.wire import HANDSHAKE, RawClient
from services.gateway.websocket.http_connection import HttpConnection

HOST = b"Host: x\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"


@pytest.fixture
async def gateway() -> AsyncIterator[Bench]:
    async with bench(MemoryBroker(), ws_handshake_timeout_s=WAIT_S) as running:
        yield running


async def said(port: int, data: bytes) -> bytes:
    """Everything that is answered, until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    try:
        async with asyncio.timeout(WAIT_S):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("what", "request_"),
    [
        ("both lengths", b"POST /ws HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n" + CHUNKED),
        ("both, swapped", b"POST /ws HTTP/1.1\r\n" + HOST + CHUNKED + b"Content-Length: 5\r\n"),
        ("a folded line", b"GET /healthz HTTP/1.1\r\n" + HOST + b"X: a\r\n b\r\n"),
        ("a folded tab", b"GET /healthz HTTP/1.1\r\n" + HOST + b"X: a\r\n\tb\r\n"),
        ("bare LF everywhere", b"GET /healthz HTTP/1.1\nHost: x\n"),
        ("bare LF once", b"GET /healthz HTTP/1.1\r\nHost: x\nX: y\r\n"),
        ("bare CR", b"GET /healthz HTTP/1.1\r\nHost: x\rX: y\r\n"),
        ("a list as length", b"POST /ws HTTP/1.1\r\n" + HOST + b"Content-Length: 5, 5\r\n"),
        ("a length twice", b"POST /ws HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n" * 2),
        ("a signed length", b"POST /ws HTTP/1.1\r\n" + HOST + b"Content-Length: +5\r\n"),
        ("chunked in 1.0", b"POST /ws HTTP/1.0\r\n" + HOST + CHUNKED),
        ("another coding", b"POST /ws HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip\r\n"),
        ("no host", b"GET /healthz HTTP/1.1\r\n"),
        ("two hosts", b"GET /healthz HTTP/1.1\r\n" + HOST * 2),
        ("a space before the colon", b"GET /healthz HTTP/1.1\r\nHost : x\r\n"),
        ("a NUL", b"GET /healthz HTTP/1.1\r\n" + HOST + b"X: \0\r\n"),
        ("another version", b"GET /healthz HTTP/3.7\r\n" + HOST),
        ("a path that is no ASCII", "GET /é HTTP/1.1\r\n".encode() + HOST),
        ("no path", b"CONNECT x:1 HTTP/1.1\r\n" + HOST),
        ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n"),
        ("a handshake with a body", HANDSHAKE[:-2] + b"Content-Length: 5, 5\r\n"),
        ("a handshake of two hosts", HANDSHAKE[:-2] + b"Host: y\r\n"),
    ],
)
async def test_what_can_be_read_in_two_ways_is_refused_and_ends_the_connection(
    gateway: Bench, what: str, request_: bytes
) -> None:
    del what
    smuggled = b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n"
    end = b"\n" if b"\r\n" not in request_ else b"\r\n"
    answer = await said(gateway.port, request_ + end + smuggled)
    assert answer.split(b" ")[1] in (b"400", b"501", b"505"), answer
    assert answer.count(b"HTTP/1.1 ") == 1, "something behind it was answered"
    assert b"connection: close" in answer.lower()


async def test_requests_behind_one_another_are_answered_in_order(gateway: Bench) -> None:
    one = b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n"
    last = b"GET /nothing HTTP/1.1\r\nConnection: close\r\n" + HOST + b"\r\n"
    answer = await said(gateway.port, one * 3 + last)
    assert [line.split(b" ")[1] for line in answer.split(b"HTTP/1.1")[1:]] == [b"200"] * 3 + [
        b"404"
    ]


async def test_what_cannot_be_read_does_not_cut_off_the_answer_to_what_came_before(
    gateway: Bench,
) -> None:
    answer = await said(gateway.port, b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n" + b"\x16\x03")
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize("cut", [1, 7, 16])
async def test_a_handshake_in_pieces_is_one_all_the_same(gateway: Bench, cut: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    for at in range(0, len(HANDSHAKE), cut):
        writer.write(HANDSHAKE[at : at + cut])
        await asyncio.sleep(0)
    async with asyncio.timeout(WAIT_S):
        assert b" 101 " in await reader.readline()
    writer.close()


async def test_a_handshake_behind_a_request_is_one_too(gateway: Bench) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    async with asyncio.timeout(WAIT_S):
        writer.write(b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        assert b" 200 " in head
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
        writer.write(HANDSHAKE)
        assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
    writer.close()


async def test_an_upgrade_to_something_else_is_answered_as_plain_http(gateway: Bench) -> None:
    other = b"GET /healthz HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n" + HOST + b"\r\n"
    assert (await said(gateway.port, other)).startswith(b"HTTP/1.1 200")


def _rubbish(choose: random.Random) -> bytes:
    lines = [b"GET", b"/", b"/ws", b"HTTP/1.1", b"\r\n", b"\n", b"Host: x", b"Upgrade: websocket"]
    lines += [b"\0", "é".encode(), b"Content-Length: 9", b"Connection: Upgrade", b" ", b"%zz", b":"]
    lines += [CHUNKED, HANDSHAKE, b"?api_key=%ff", b"Transfer-Encoding: chunked", b"\r\n\r\n"]
    some = b"".join(choose.choice(lines) for _ in range(choose.randrange(1, 20)))
    return some if choose.random() < 0.8 else choose.randbytes(200)


async def test_rubbish_leaves_no_traceback_and_a_bounded_number_of_lines(
    gateway: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    choose = random.Random(5)
    clock = asyncio.get_running_loop().time
    before, began = gateway.gateway.metrics.http_refused.labels("malformed")._value.get(), clock()

    async def one(data: bytes) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(data)
        writer.write_eof()
        async with asyncio.timeout(WAIT_S):
            with suppress(ConnectionError):
                await reader.read()
        writer.close()

    with structlog.testing.capture_logs() as lines:
        for _ in range(8):
            async with asyncio.TaskGroup() as group:
                for _ in range(25):
                    group.create_task(one(_rubbish(choose)))
    assert gateway.gateway.metrics.http_refused.labels("malformed")._value.get() > before + 50
    # Ten of them at once and then one in ten seconds, however long this took.
    told = [line for line in lines if line["event"] == "http_refused"]
    assert len(told) <= 10 + (clock() - began) / 10
    assert len(lines) - len(told) + len(caplog.records) < 30
    assert not [record for record in caplog.records if record.exc_info]
    assert all("Traceback" not in str(line) for line in lines)


async def test_nothing_of_its_http_is_kept_for_a_handshake_that_came_in_pieces(
    gateway: Bench,
) -> None:
    # Breaks when parser and protocol hold each other: the collector runs rarely here.
    gc.collect()
    gc.disable()
    try:
        for _ in range(5):
            async with await RawClient.open(gateway.port) as client:
                await client.write(HANDSHAKE, chop=20)
                assert b" 101 " in await client.head()
        await eventually(lambda: not gateway.gateway.sessions)
        kept = [one for one in gc.get_objects() if isinstance(one, HttpConnection)]
        assert kept == []
    finally:
        gc.enable()
