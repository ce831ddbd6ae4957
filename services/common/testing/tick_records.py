"""Tick log records for tests: a small market that writes chained records of one stream."""

from __future__ import annotations

import random
from decimal import Decimal
from typing import Any

import msgspec

from services.common.domain.book import Book
from services.common.sharding import shard_of
from services.common.stream import Position, Record
from services.common.subjects import StreamKey, tick_subject
from services.common.wire import (
    Fields,
    Late,
    Level,
    Missed,
    Reset,
    Status,
    Tick,
    Trade,
    encode,
    to_raw,
)

START = 1_790_000_000_000_000
EPOCH = START - 1_000_000


class TickStream:
    """Makes the records of one stream, in order, chained as the normalizer chains them.

    Args:
        key: the stream.
        shard_count: of the platform.
        seed: the same seed gives the same records.
        ts: receive time of the first record; each one comes 1 ms after the one before.
    """

    def __init__(
        self, key: StreamKey, *, shard_count: int = 2, seed: int = 1, ts: int = START
    ) -> None:
        self.key = key
        self.shard = shard_of(key.product, shard_count)
        self.subject = tick_subject(self.shard, key)
        self.epoch = EPOCH
        self.seq = 0
        self.sub = 0
        self.records: list[Record] = []
        self.book = Book()
        self._held: int | None = None
        self._ts = ts
        self._random = random.Random(f"{seed}:{key}")

    def tick(self) -> Record:
        """The channel's ordinary record; a book's first one is a reset with its state."""
        if self.key.channel == "book" and self._held is None:
            return self.reset()
        prev_sub = self.sub
        self._advance()
        return self._emit(
            Tick(
                **self._place(),
                prev=self._held,
                venue_seq=None,
                ts_event=self._ts,
                ts_ingest=self._ts,
                fields=self._fields(),
                prev_sub=prev_sub,
            )
        )

    def reset(self, levels: int = 60, *, whole: bool = True) -> Record:
        """A reset; `whole` brings a book of `levels` levels a side, else it brings nothing."""
        prev_sub = self.sub
        self._advance()
        state = None
        if whole and self.key.channel == "book":
            bids = [(f"{30_000 - n}.00", self._size()) for n in range(1, levels + 1)]
            asks = [(f"{30_000 + n}.00", self._size()) for n in range(1, levels + 1)]
            self.book.replace(bids, asks)
            state = to_raw({"bids": bids, "asks": asks})
        return self._emit(
            Reset.at(
                self.key,
                self.shard,
                (self.epoch, self.seq),
                self._held,
                (self._ts, self._ts),
                "start",
                state,
                prev_sub=prev_sub,
            )
        )

    def status(self) -> Record:
        return self._beside(Status, state="live", since=self._ts + 1000, evidence="test")

    def late(self) -> Record:
        """A record of trades found late: it changes no state."""
        missed = Missed(1, 1, 1)
        return self._beside(Late, missed=missed, ticks=[], open=[missed], lost=[], reason="open")

    def _beside(self, kind: type[Status | Late], **fields: Any) -> Record:
        """A record that is no link of the chain."""
        self.sub += 1
        self._ts += 1000
        made = kind(**self._place(), sub=self.sub, ts_ingest=self._ts, **fields)
        return self._append(self.sub, encode(made))

    def many(self, count: int) -> list[Record]:
        """`count` records, mostly ticks, now and then another kind."""
        made = []
        for _ in range(count):
            dice = self._random.random()
            if dice < 0.03:
                made.append(self.status())
            elif dice < 0.04:
                made.append(self.late())
            elif dice < 0.05:
                made.append(self.reset())
            else:
                made.append(self.tick())
        return made

    def _place(self) -> dict[str, Any]:
        """What all records begin with."""
        return {
            **self.key._asdict(),
            "v": 1,
            "shard": self.shard,
            "epoch": self.epoch,
            "seq": self.seq,
        }

    def _advance(self) -> None:
        self.seq += 1 if self.key.channel == "trades" else self._random.randint(1, 9)
        self.sub = 0
        self._ts += 1000

    def _emit(self, record: Tick | Reset) -> Record:
        made = self._append(0, encode(record))
        self._held = record.seq
        return made

    def _append(self, sub: int, payload: bytes) -> Record:
        record = Record(self.subject, payload, Position(self.epoch, self.seq, sub))
        self.records.append(record)
        return record

    def _size(self) -> str:
        return f"{self._random.randint(1, 99)}.{self._random.randint(0, 99):02d}"

    def _fields(self) -> Fields:
        price = f"{30_000 + self._random.randint(-50, 50)}.00"
        if self.key.channel == "book":
            changes = [self._change() for _ in range(self._random.randint(1, 4))]
            self.book.apply(changes)
            return Fields(changes=changes)
        trade = Trade(price, self._size(), "buy", self.seq, self._ts)
        if self.key.channel == "trades":
            return Fields(last_trade=trade)
        return Fields(last_trade=trade, best_bid=Level(price, self._size()))

    def _change(self) -> tuple[str, str, str]:
        side = self._random.choice(("buy", "sell"))
        offset = self._random.randint(1, 80)
        price = Decimal(30_000 - offset if side == "buy" else 30_000 + offset)
        size = "0" if self._random.random() < 0.3 else self._size()
        return side, f"{price}.00", size


def state_json(state: bytes) -> object:
    """A state as plain values, to compare."""
    return msgspec.json.decode(state)
