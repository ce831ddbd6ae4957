"""A JetStream that is filled up to its limit, for tests of services on it."""

from __future__ import annotations

import asyncio

from services.common.stream import Broker, Position, Record
from services.common.stream.nats.broker import NatsBroker
from services.common.subjects import INVALID_SUBJECT

# What one small record takes, at most; then nothing fits any more.
_SIZES = (100_000, 10_000, 1_000, 1)


async def fill(broker: Broker) -> None:
    """Put records nobody reads into the `invalid` log until the server takes no more."""
    for seq, size in enumerate(_SIZES, 1):
        publisher = await broker.publisher(max_records=1)
        # Refused, it is not tried again: the publisher would put it in when there is room.
        while publisher.stats().trouble is None:
            position = Position(seq, publisher.stats().sent + 1)
            publisher.offer(Record(INVALID_SUBJECT, b"x" * size, position))
            await asyncio.sleep(0)
        await publisher.aclose()


async def make_room(broker: Broker) -> None:
    """Take them away again."""
    assert isinstance(broker, NatsBroker)
    await broker.api("STREAM.PURGE.MARKET_INVALID")
