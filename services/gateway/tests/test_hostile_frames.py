"""Frames that are each allowed and together are not: bounded work in a turn, bounded memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.stream.memory.broker import MemoryBroker
from services.gateway.testing import Bench, bench, eventually
from services.gateway.testing.wire import CLOSE, CONT, PING, PONG, TEXT, RawClient, frame
from services.gateway.tests.test_inbound import MAX_BYTES, Told, ours, streams
from services.gateway.websocket.rfc6455.inbound import FRAME_COST, Inbound

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
