"""What waits to be written to one client: its bound, and what goes first, at the edges."""

from __future__ import annotations

import pytest

from services.gateway.fanout.outbox import Outbox


def test_it_begins_empty_and_nobody_has_to_know_of_it() -> None:
    outbox = Outbox(10)
    assert (outbox.limit, outbox.size, outbox.control_size, outbox.dirty) == (10, 0, 0, False)
    assert not outbox
    assert outbox.drain(100) == []


def test_data_fits_up_to_the_very_limit() -> None:
    outbox = Outbox(10)
    assert outbox.offer(b"12345")
    assert not outbox.offer(b"123456")
    assert outbox.offer(b"12345")
    assert outbox.size == 10
    assert not outbox.offer(b"1")
    outbox.put(b"beyond")
    assert outbox.size == 16
    assert b"".join(outbox.drain(100)) == b"1234512345beyond"


def test_control_goes_first_however_little_data_is_taken_and_is_counted_on_its_own() -> None:
    outbox = Outbox(100)
    outbox.put(b"data")
    outbox.put_control(b"pong")
    outbox.put_control(b"error")
    assert (outbox.size, outbox.control_size) == (4, 9)
    assert outbox
    # At least one piece of data goes out.
    assert outbox.drain(1) == [b"pong", b"error", b"data"]
    assert (outbox.size, outbox.control_size) == (0, 0)
    assert not outbox
    outbox.put_control(b"pong")
    assert outbox


@pytest.mark.parametrize(
    ("most", "pieces"),
    [
        (1, [b"aaaa"]),
        (4, [b"aaaa"]),
        (7, [b"aaaa"]),
        (8, [b"aaaa", b"bbbb"]),
        (11, [b"aaaa", b"bbbb"]),
        (12, [b"aaaa", b"bbbb", b"cccc"]),
        (13, [b"aaaa", b"bbbb", b"cccc"]),
    ],
)
def test_as_much_data_is_taken_as_was_asked_for_in_whole_pieces(
    most: int, pieces: list[bytes]
) -> None:
    outbox = Outbox(100)
    every = [b"aaaa", b"bbbb", b"cccc"]
    for piece in every:
        outbox.put(piece)
    assert outbox.drain(most) == pieces
    assert outbox.size == 12 - 4 * len(pieces)
    assert outbox.drain(100) == every[len(pieces) :]
    assert outbox.size == 0


def test_clearing_forgets_everything_and_makes_room() -> None:
    outbox = Outbox(10)
    outbox.put(b"1234567890")
    outbox.put_control(b"pong")
    outbox.clear()
    assert not outbox
    assert (outbox.size, outbox.control_size) == (0, 0)
    assert outbox.offer(b"1234567890")
    assert outbox.drain(100) == [b"1234567890"]
