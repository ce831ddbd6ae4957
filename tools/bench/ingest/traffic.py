"""Raw records like those of a busy hour, for benchmarks: the mix of channels of the live feed."""

from __future__ import annotations

import random
from collections.abc import Iterator

from services.common.stream import Record
from services.common.subjects import StreamKey
from services.common.testing.raw_records import RawStream, raw_message

PRODUCTS = [f"P{number:02d}-USD" for number in range(20)]
# Of 100 messages: book updates, tickers, trades.
_WEIGHTS = {"book": 70, "ticker": 18, "trades": 12}


def raw_records(count: int, seed: int = 1) -> Iterator[Record]:
    """`count` raw records of 20 products' streams, as the ingestor publishes them."""
    pick = random.Random(seed)
    streams = {
        channel: [RawStream(StreamKey("coinbase", channel, product)) for product in PRODUCTS]
        for channel in _WEIGHTS
    }
    channels = pick.choices(list(_WEIGHTS), list(_WEIGHTS.values()), k=count)
    for channel in channels:
        stream = pick.choice(streams[channel])
        # Only the newest is looked at, and a benchmark makes very many.
        del stream.records[:-1]
        if channel == "book":
            rows = [
                (pick.choice(("buy", "sell")), f"{pick.random() * 1e5:.2f}", f"{pick.random():.8f}")
                for _ in range(pick.choice((1, 1, 2, 3, 5, 8)))
            ]
            yield raw_message(stream.changes(stream.seq + 50_000, rows))
        elif channel == "ticker":
            yield raw_message(stream.ticker(stream.seq + pick.randint(1, 90)))
        else:
            yield raw_message(stream.match(stream.seq + 1))
