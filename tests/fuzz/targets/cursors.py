"""Places that come back from outside: of clients (`drain`), of rows in DynamoDB, of checkpoints.

What is accepted, written anew, is what was given: no two texts are one place.
"""

from __future__ import annotations

from services.common.errors import PositionLost
from services.common.stream.nats import records as nats
from services.common.stream.records import Position
from services.common.stream.redis import records as redis
from services.gateway.protocol import Problem, make_cursor, parse_cursor

_EPOCH = 1700000000000000


def check(data: bytes) -> None:
    text = data.decode(errors="surrogateescape")
    try:
        seq, epoch = parse_cursor(text)
    except Problem:
        pass
    else:
        assert 0 <= seq < 2**63
        assert 0 <= epoch < 2**63
        assert make_cursor(epoch, seq) == text
    try:
        place = nats.parse_cursor("market.invalid", text, _EPOCH)
    except PositionLost:
        pass
    else:
        if isinstance(place, Position):
            assert nats.position_cursor(_EPOCH, place) == text
        else:
            assert nats.sequence_cursor(_EPOCH, place) == text
    try:
        found = redis.parse_cursor("market.invalid", text, _EPOCH)
    except PositionLost:
        pass
    else:
        assert redis.cursor_at(_EPOCH, found.epoch, found[1:]) == text


SEEDS = (
    b"1700000000000000.12",
    b"0.0",
    b"1700000000000000@12",
    b"1700000000000000@p1700000000000000.12.0",
    b"1700000000000000@1700000000000000.12-0",
)
