"""What a connection does with clients that send without end, or ping and never read."""

from __future__ import annotations

import struct
from types import SimpleNamespace

import pytest

from services.common.stream.memory.broker import MemoryBroker
from services.common.stream.specs import log_specs
from services.gateway.admission.auth import EVERYONE, Places, Seat
from services.gateway.clients import session as session_module
from services.gateway.clients.session import Session
from services.gateway.lifecycle import Gateway
from services.gateway.metrics import Metrics
from services.gateway.testing import small_settings
from services.gateway.testing.links import Nowhere
from services.gateway.testing.wire import CONT, PING, PONG, TEXT, frame
from services.gateway.tests.memory_connection import Connection, Texts

_TOO_MUCH = 1008


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


@pytest.mark.parametrize("waiting", [b"", b"second"])
async def test_who_pings_and_never_reads_is_slow_although_no_time_passes_between(
    monkeypatch: pytest.MonkeyPatch, waiting: bytes
) -> None:
    # Times cannot tell what came first here: only the order in which the session is called does.
    monkeypatch.setattr(session_module, "time", SimpleNamespace(monotonic=lambda: 5.0))
    settings = small_settings(ws_slow_close_s=60)
    parts = Gateway(settings, MemoryBroker(), log_specs(settings), Metrics()).parts
    seat = Seat(Places())
    seat.acquire(EVERYONE)
    one = Connection()
    session = Session(parts, one.protocol, seat, Nowhere())
    one.protocol.hand_over(session)
    one.transport.full = True
    one.protocol.write(b"first")
    for turn in range(3):
        # It takes what the socket held, asks again, and what is written next waits again.
        if waiting:
            session.outbox.put(waiting)
        one.protocol.data_received(frame(PING, b"%d" % turn))
        one.transport.drain()
        assert one.transport.held == (b"\x8a\x01%d" % turn) + waiting
        assert session.stuck_since == 5.0
        assert not session.outbox
        # The ping of ours that waits behind it is forgiven: its not being answered is no wonder.
        assert not one.protocol.ping_overdue()
    assert session.overdue(65.0) is None
    overdue = session.overdue(65.1)
    assert overdue is not None
    assert overdue[1] == "slow_closed"
