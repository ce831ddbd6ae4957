"""The frame parser beside the library that everybody trusts, and what only it promises."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from websockets.exceptions import PayloadTooBig, ProtocolError
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from services.gateway.testing.wire import BINARY, CLOSE, CONT, PING, PONG, TEXT, frame
from services.gateway.websocket.rfc6455.frames import CloseCode
from services.gateway.websocket.rfc6455.inbound import Inbound, Receiver

MAX_BYTES = 400


class Told(Receiver):
    """Notes what it is told."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []

    def on_text(self, text: str) -> None:
        self.events.append(("text", text))

    def on_binary(self, data: bytes) -> None:
        self.events.append(("binary", data))

    def on_ping(self, payload: bytes) -> None:
        self.events.append(("ping", payload))

    def on_pong(self, payload: bytes) -> None:
        self.events.append(("pong", payload))

    def on_close(self, code: int, payload: bytes) -> None:
        self.events.append(("close", code, payload))

    def on_violation(self, code: CloseCode, reason: str) -> None:
        assert reason
        self.events.append(("violation", code))


def ours(chunks: Sequence[bytes]) -> list[tuple[Any, ...]]:
    told = Told()
    inbound = Inbound(MAX_BYTES)
    for chunk in chunks:
        inbound.feed(chunk, told)
    return told.events


def library(data: bytes) -> list[tuple[Any, ...]]:
    """What `websockets` makes of it; messages put together as its users do."""
    protocol = ServerProtocol(state=OPEN, max_size=MAX_BYTES)
    protocol.receive_data(data)
    found: list[tuple[Any, ...]] = []
    kind, parts = Opcode.CONT, b""
    for event in protocol.events_received():
        assert isinstance(event, Frame)
        if event.opcode in (Opcode.PING, Opcode.PONG):
            found.append((event.opcode.name.lower(), event.data))
        elif event.opcode is Opcode.CLOSE:
            assert protocol.close_rcvd is not None
            found.append(("close", protocol.close_rcvd.code, event.data))
        else:
            kind = event.opcode if event.opcode is not Opcode.CONT else kind
            parts = (b"" if event.opcode is not Opcode.CONT else parts) + bytes(event.data)
            if event.fin:
                try:
                    found.append(
                        ("text", parts.decode()) if kind is Opcode.TEXT else ("binary", parts)
                    )
                except UnicodeDecodeError:
                    return [*found, ("violation", 1007)]
    error = protocol.parser_exc
    if error is not None:
        code = {ProtocolError: 1002, UnicodeDecodeError: 1007, PayloadTooBig: 1009}[type(error)]
        found.append(("violation", code))
    return found


payloads = st.one_of(st.binary(max_size=130), st.text(max_size=60).map(str.encode))
closes = st.one_of(
    st.just(b""),
    st.binary(max_size=6),
    st.tuples(st.integers(990, 5010), st.text(max_size=10)).map(
        lambda one: struct.pack("!H", one[0]) + one[1].encode()
    ),
)
good = st.one_of(
    st.builds(frame, st.sampled_from([TEXT, BINARY]), payloads),
    st.builds(frame, st.sampled_from([PING, PONG]), st.binary(max_size=125)),
    st.tuples(st.sampled_from([TEXT, BINARY]), st.lists(payloads, min_size=1, max_size=4)).map(
        lambda one: b"".join(
            frame(one[0] if at == 0 else CONT, piece, fin=at == len(one[1]) - 1)
            for at, piece in enumerate(one[1])
        )
    ),
)
wild = st.builds(
    frame,
    st.integers(0, 15),
    payloads,
    fin=st.booleans(),
    rsv=st.sampled_from([0, 0, 0, 0, 1, 4]),
    masked=st.sampled_from([True, True, True, True, False]),
)
streams = st.lists(
    st.one_of(good, good, good, wild, st.builds(frame, st.just(CLOSE), closes)), max_size=8
).map(b"".join)


@given(streams)
def test_what_is_read_is_what_the_library_reads(data: bytes) -> None:
    mine, theirs = ours([data]), library(data)
    if mine == theirs:
        return
    # It differs in what it may: a broken piece of text is found before its message is whole, and a
    # close between the pieces of a message is a close (RFC 6455, 5.4).
    at = next(n for n in range(len(mine)) if n >= len(theirs) or mine[n] != theirs[n])
    assert mine[:at] == theirs[:at]
    assert mine[at][0] == "close" or mine[at] == ("violation", 1007)
    assert at == len(mine) - 1, "nothing comes after it"


@given(streams, st.randoms(use_true_random=False))
def test_how_the_bytes_are_cut_changes_nothing(data: bytes, choose: random.Random) -> None:
    # Breaks when anything is forgotten, or read twice, between two reads of a socket.
    cuts = sorted(choose.randrange(len(data) + 1) for _ in range(choose.randrange(12)))
    chunks = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    assert ours(chunks) == ours([data])


@given(st.binary(max_size=300))
def test_any_bytes_at_all_are_read_or_refused(data: bytes) -> None:
    events = ours([data[at : at + 3] for at in range(0, len(data), 3)])
    assert all(one[0] != "violation" for one in events[:-1])


def test_nothing_is_held_between_whole_messages() -> None:
    told, inbound = Told(), Inbound(MAX_BYTES)
    for piece in (frame(TEXT, b"a"), frame(TEXT, b"b", fin=False), frame(CONT, b"c")):
        inbound.feed(piece, told)
    assert [event[1] for event in told.events] == ["a", "bc"]
    assert [inbound._rest, inbound._parts, inbound._decoder] == [None, None, None]
