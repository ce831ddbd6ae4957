"""Frames that are each allowed and together are not: bounded work in a turn, bounded memory."""

from __future__ import annotations

import asyncio
import struct
import tracemalloc
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.stream.memory.broker import MemoryBroker
from services.gateway.testing import Bench, bench, eventually
from services.gateway.testing.wire import CLOSE, CONT, PING, PONG, TEXT, RawClient, frame
from services.gateway.tests.test_inbound import MAX_BYTES, Told, ours, streams
from services.gateway.websocket.connection import WebSocketConnection
from services.gateway.websocket.rfc6455.inbound import FRAME_COST, Inbound
from services.gateway.websocket.server_context import ReadLimits, ServerContext
from services.gateway.websocket.transport import TransportListener

_TOO_MUCH = 1008


# ---------------------------------------------------------------------- the parser


@given(streams, st.integers(1, 3 * FRAME_COST))
def test_reading_turn_by_turn_reads_the_same(data: bytes, cost: int) -> None:
    told, inbound = Told(), Inbound(MAX_BYTES)
    done, turns = inbound.feed(data, told, cost), 0
    while not done:
        before = len(told.events)
        done, turns = inbound.go_on(told, cost), turns + 1
        assert len(told.events) - before <= cost // FRAME_COST + 1
    assert told.events == ours([data])


# Masks are drawn at random: names of their own, the same in every process.
@pytest.mark.parametrize(
    "flood",
    [frame(PING), frame(PONG), frame(TEXT, b"{}")],
    ids=["pings", "pongs", "texts"],
)
def test_what_one_turn_reads_is_bounded_whatever_the_frames(flood: bytes) -> None:
    told, inbound = Told(), Inbound(MAX_BYTES)
    assert not inbound.feed(flood * 40_000, told, 64 * 1024)
    assert len(told.events) <= 64 * 1024 // FRAME_COST


def test_who_says_stop_is_told_nothing_more_until_it_is_gone_on() -> None:
    class Three(Told):
        def on_text(self, text: str) -> None:
            super().on_text(text)
            inbound.stopped = len(self.events) % 3 == 0

    told, inbound = Three(), Inbound(MAX_BYTES)
    assert not inbound.feed(frame(TEXT, b"{}") * 7, told)
    assert len(told.events) == 3
    inbound.stopped = False
    assert not inbound.go_on(told)
    inbound.stopped = False
    assert inbound.go_on(told)
    assert len(told.events) == 7


@pytest.mark.parametrize("piece", [b"", b"x"])
def test_a_message_of_ever_more_pieces_is_ended_by_their_number(piece: bytes) -> None:
    told, inbound = Told(), Inbound(1024 * 1024)
    inbound.feed(frame(TEXT, piece, fin=False), told)
    inbound.feed(frame(CONT, piece, fin=False) * 50_000, told)
    assert told.events == [("violation", _TOO_MUCH)]


def test_pieces_of_one_byte_take_the_memory_of_their_bytes() -> None:
    told, inbound = Told(), Inbound(1024 * 1024)
    pieces = [frame(CONT, b"x", fin=False) for _ in range(1000)]
    inbound.feed(frame(TEXT, b"x", fin=False), told)
    tracemalloc.start()
    try:
        for piece in pieces:
            inbound.feed(piece, told)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 5_000


# ---------------------------------------------------------------------- the connection's rules


class Transport:
    """Takes bytes until it is `full`, and tells its protocol as asyncio's transports do."""

    def __init__(self) -> None:
        self.protocol: WebSocketConnection
        self.full = False
        self.reading = True
        self.sent = b""
        self.held = b""

    def get_extra_info(self, _name: str) -> None:
        return None

    def is_closing(self) -> bool:
        return False

    def can_write_eof(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return len(self.held)

    def write(self, data: bytes) -> None:
        if not self.full:
            self.sent += data
        elif data:
            self.held += data
            self.protocol.pause_writing()

    def drain(self) -> None:
        self.sent, self.held = self.sent + self.held, b""
        self.protocol.resume_writing()

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


class Nothing:
    """A keepalive that keeps nobody."""

    def add(self, one: Any) -> None: ...

    def remove(self, one: Any) -> None: ...


class Texts(TransportListener):
    """Notes what it is told."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.waiting = b""
        self.link: WebSocketConnection
        self.said: list[str] = []

    def on_text(self, text: str) -> None:
        self.texts.append(text)

    def on_binary(self, data: bytes) -> None:
        raise AssertionError(data)

    def on_pause(self) -> None:
        self.said.append("pause")

    def on_resume(self) -> None:
        self.said.append("resume")
        if self.waiting:
            waiting, self.waiting = self.waiting, b""
            self.link.write(waiting)

    def on_closed(self) -> None:
        self.said.append(self.link.ended)


class Calls:
    """The event loop's part: what was to be called in the next turn, and later."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.soon: list[Callable[[], None]] = []
        self.later: list[tuple[float, Callable[[], None]]] = []

    def time(self) -> float:
        return self.now

    def call_soon(self, call: Callable[[], None]) -> None:
        self.soon.append(call)

    def call_later(self, seconds: float, call: Callable[..., None], *args: Any) -> Any:
        self.later.append((self.now + seconds, partial(call, *args)))
        return asyncio.TimerHandle(0, call, args, cast("asyncio.AbstractEventLoop", self))

    def get_debug(self) -> bool:
        return False

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        # A handle's callback is forgotten when it is cancelled; the entry stays and does nothing.
        del handle

    def turn(self) -> None:
        soon, self.soon = self.soon, []
        for call in soon:
            call()

    def until(self, when: float) -> None:
        self.now = when
        due = [call for at, call in self.later if at <= when]
        self.later = [one for one in self.later if one[0] > when]
        for call in due:
            call()


class Connection:
    """An open one, in memory."""

    def __init__(self) -> None:
        self.calls = Calls()
        self.transport = Transport()
        # Not asked for by an open connection.
        no: Any = None
        calls: Any = self.calls
        keepalive: Any = Nothing()
        context = ServerContext(
            *(no, no, {}, calls, keepalive, no, no, no, no), ReadLimits(1 << 20)
        )
        self.protocol = WebSocketConnection(context, cast("asyncio.Transport", self.transport))
        self.transport.protocol = self.protocol
        self.protocol._state = 1
        self.heard = Texts()
        self.heard.link = self.protocol
        self.protocol.hand_over(self.heard)

    def close_code(self) -> int | None:
        at = self.transport.sent.find(bytes((0x80 | CLOSE,)))
        return None if at < 0 else int(struct.unpack_from("!H", self.transport.sent, at + 2)[0])


def test_one_read_of_many_frames_is_spread_over_turns_and_the_socket_waits() -> None:
    one = Connection()
    one.protocol.data_received(frame(TEXT, b"{}") * 1000)
    assert len(one.heard.texts) < 300
    assert not one.transport.reading
    while one.calls.soon:
        one.calls.turn()
    assert len(one.heard.texts) == 1000
    assert one.transport.reading


def test_a_listener_that_wants_no_more_gets_no_more() -> None:
    one = Connection()
    heard = one.heard.texts

    def on_text(text: str) -> None:
        heard.append(text)
        one.protocol.pause_reading()

    one.heard.on_text = on_text  # type: ignore[method-assign]  # this test's own
    one.protocol.data_received(frame(TEXT, b"{}") * 5)
    for count in range(1, 6):
        assert len(heard) == count
        one.calls.turn()
        assert len(heard) == count
        one.protocol.resume_reading()
        one.calls.turn()
    assert len(heard) == 5
    one.protocol.resume_reading()
    assert one.transport.reading


@pytest.mark.parametrize("flood", [PING, PONG])
def test_control_frames_beyond_their_rate_end_the_connection(flood: int) -> None:
    one = Connection()
    for _ in range(200):
        one.protocol.data_received(frame(flood))
    assert one.close_code() is None
    one.calls.until(one.calls.now + 1)
    for _ in range(20):
        one.protocol.data_received(frame(flood))
    assert one.close_code() is None
    one.protocol.data_received(frame(flood) * 1000)
    assert one.close_code() == _TOO_MUCH
    assert one.heard.said == ["abuse"]


def test_the_answers_to_our_own_pings_are_never_too_many() -> None:
    one = Connection()
    for number in range(1, 1000):
        one.protocol.ping = number
        one.protocol.data_received(frame(PONG, struct.pack("!I", number)))
        assert one.protocol.ping == 0
    assert one.close_code() is None


def test_nothing_that_comes_after_a_close_is_obeyed_or_read_for_ever() -> None:
    one = Connection()
    one.protocol.close(1000, "")
    sent = one.transport.sent
    flood = frame(PING) + frame(TEXT, b"{}")
    for _ in range(1000):
        one.protocol.data_received(flood * 2500)
        while one.calls.soon:
            one.calls.turn()
    assert one.transport.sent == sent
    assert one.heard.texts == []
    assert not one.transport.reading


def test_frames_behind_the_one_that_ended_the_connection_are_not_looked_at() -> None:
    one = Connection()
    one.protocol.data_received(frame(3) + frame(TEXT, b"{}") * 10)
    one.protocol.data_received(frame(TEXT, b"{}") * 10)
    assert one.heard.said == ["violation"]
    assert one.heard.texts == []


def test_a_message_that_does_not_end_in_time_ends_its_connection() -> None:
    one = Connection()
    one.protocol.data_received(frame(TEXT, b"{", fin=False))
    for _ in range(9):
        one.calls.until(one.calls.now + 1)
        # Bytes that trickle in do not prolong it.
        one.protocol.data_received(frame(CONT, b" ", fin=False))
    assert one.close_code() is None
    one.calls.until(one.calls.now + 1)
    assert one.close_code() == _TOO_MUCH


def test_messages_in_pieces_have_each_their_own_time_and_a_reader_held_back_is_not_late() -> None:
    one = Connection()
    for _ in range(5):
        one.protocol.data_received(frame(TEXT, b"{", fin=False))
        one.calls.until(one.calls.now + 6)
        one.protocol.data_received(frame(CONT, b"}"))
    one.protocol.data_received(frame(TEXT, b"{", fin=False))
    one.protocol.pause_reading()
    one.calls.until(one.calls.now + 60)
    assert one.close_code() is None
    assert one.heard.texts == ["{}"] * 5


# ---------------------------------------------------------------------- who pings and never reads


def test_what_waits_for_a_client_goes_out_with_the_pong_not_behind_it() -> None:
    one = Connection()
    one.transport.full = True
    one.protocol.write(b"first")
    one.protocol.data_received(frame(PING, b"a") + frame(PING, b"b"))
    one.heard.waiting = b"second"
    one.transport.drain()
    # The newest ping alone is answered, and the transport holds data again.
    assert one.transport.held == b"\x8a\x01bsecond"
    assert one.heard.said == ["pause", "resume", "pause"]
    assert not one.protocol.ready


def test_a_pong_that_fills_the_transport_again_is_told_as_a_pause() -> None:
    one = Connection()
    one.transport.full = True
    one.protocol.write(b"first")
    one.protocol.data_received(frame(PING, b"a"))
    one.transport.drain()
    assert one.transport.held == b"\x8a\x01a"
    assert one.heard.said == ["pause", "resume", "pause"]


def test_who_takes_over_a_transport_that_waits_is_told_so() -> None:
    one = Connection()
    one.transport.full = True
    one.protocol.write(b"first")
    late = Texts()
    late.link = one.protocol
    one.protocol.hand_over(late)
    assert late.said == ["pause"]


# ---------------------------------------------------------------------- over a socket


@pytest.fixture
async def gateway() -> AsyncIterator[Bench]:
    async with bench(MemoryBroker(), ws_message_timeout_s=0.2) as running:
        yield running


def _closed(gateway: Bench, reason: str) -> float:
    return float(gateway.gateway.metrics.closed.labels(reason)._value.get())


@pytest.mark.parametrize(
    ("flood", "reason"),
    [
        (frame(PING) * 100_000, "abuse"),
        (frame(PONG, b"x") * 100_000, "abuse"),
        (frame(TEXT, b"", fin=False) + frame(CONT, b"", fin=False) * 100_000, "abuse"),
        (frame(TEXT, b"{", fin=False), "abuse"),
        (frame(TEXT, b'{"type":"ping"}', size=100), "abuse"),
        (frame(3), "violation"),
        (frame(CLOSE), "client"),
    ],
    ids=["pings", "pongs", "pieces", "an open message", "half a frame", "opcode 3", "a close"],
)
async def test_a_flood_ends_its_own_connection_and_is_counted_by_its_reason(
    gateway: Bench, flood: bytes, reason: str
) -> None:
    before = {
        name: _closed(gateway, name) for name in ("abuse", "violation", "client", "ping_timeout")
    }
    async with await RawClient.connect(gateway.port) as hostile:
        await hostile.of(TEXT, b"welcome")
        hostile.writer.write(flood)
        await hostile.of(CLOSE)
        await eventually(lambda: not gateway.gateway.sessions)
    now = {name: _closed(gateway, name) - count for name, count in before.items()}
    assert now == {name: float(name == reason) for name in now}


async def test_a_ping_without_an_answer_is_counted_as_one() -> None:
    async with (
        bench(MemoryBroker(), ws_ping_interval_s=0.05, ws_ping_timeout_s=0.1) as gateway,
        await RawClient.connect(gateway.port) as silent,
    ):
        assert await silent.close_code() == 1011
        await eventually(lambda: not gateway.gateway.sessions)
        assert (_closed(gateway, "ping_timeout"), _closed(gateway, "client")) == (1, 0)
