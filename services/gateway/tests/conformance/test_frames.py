"""WebSocket conformance, case by case over real sockets, against an echo application.

The cases are those that conformance suites for RFC 6455 are made of; each names the section that
demands it. What is asserted is what came over the wire: every frame, the close code, the end.
"""

from __future__ import annotations

import struct

import pytest

from services.gateway.testing.wire import CLOSE, HANDSHAKE, RawClient, close_frame
from services.gateway.tests.conformance.cases import CASES, Case, compressed
from services.gateway.tests.conformance.servers import OURS

pytestmark = pytest.mark.asyncio(loop_scope="module")

WITH_DEFLATE = HANDSHAKE.replace(
    b"\r\n\r\n", b"\r\nSec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n"
)


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
