"""What all servers of the comparison send, and when: trades, whose `seq` is contiguous."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable

from services.common.sharding import shard_of
from services.common.stream import Position, Record
from services.common.subjects import StreamKey, tick_subject
from services.common.wire import Fields, Tick, Trade, encode

KEY = StreamKey("coinbase", "trades", "BTC-USD")
# Of as many digits as trade ids have, so that all messages have one length.
FIRST = 1_000_000_001
_EPOCH = 1_700_000_000_000_000


def record(seq: int, shards: int) -> Record:
    """The tick as the normalizer publishes it, received now."""
    now = time.time_ns() // 1000
    shard = shard_of(KEY.product, shards)
    payload = encode(
        Tick(
            v=1,
            venue=KEY.venue,
            channel=KEY.channel,
            product=KEY.product,
            shard=shard,
            epoch=_EPOCH,
            seq=seq,
            prev=seq - 1,
            venue_seq=None,
            ts_event=now,
            ts_ingest=now,
            fields=Fields(last_trade=Trade("67123.45", "0.01250000", "buy", seq, now)),
        )
    )
    return Record(tick_subject(shard, KEY), payload, Position(_EPOCH, seq, 0))


def message(seq: int) -> bytes:
    """What a subscriber is sent for it."""
    return b'{"type":"incr","tick":' + record(seq, 8).payload + b"}"


def on_credits(pipe: int, flush: Callable[[], None], ended: Callable[[], None]) -> None:
    """Each byte on a pipe is a flush that the sink asks for.

    Calls `flush` for each, on the running loop, and `ended` when the sink is gone.
    """
    loop = asyncio.get_running_loop()
    os.set_blocking(pipe, False)

    def readable() -> None:
        granted = os.read(pipe, 64)
        if not granted:
            loop.remove_reader(pipe)
            ended()
        for _ in granted:
            flush()

    loop.add_reader(pipe, readable)
