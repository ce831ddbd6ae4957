"""For tests: a market that publishes chained records, as the normalizer does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from services.common.sharding import shard_of
from services.common.stream import Position, Publisher, Record
from services.common.subjects import StreamKey, tick_subject
from services.common.wire import (
    UNCHAINED,
    Fields,
    Late,
    Level,
    Missed,
    Repair,
    Reset,
    Status,
    StreamState,
    Tick,
    Trade,
    encode,
)

EPOCH = 1_700_000_000_000_000


_FIRST_TRADE = Missed(1, 1, 1)


class Market:
    """Publishes one stream's records the way the normalizer does."""

    def __init__(
        self,
        publisher: Publisher | None,
        product: str = "BTC-USD",
        channel: str = "ticker",
        *,
        shards: int = 2,
        epoch: int = EPOCH,
        padding: int = 0,
    ) -> None:
        self.key = StreamKey("coinbase", channel, product)
        self.shard = shard_of(product, shards)
        self.subject = tick_subject(self.shard, self.key)
        self.epoch = epoch
        self.seq: int | None = None
        self.sub = 0
        self.records: list[bytes] = []
        self.clock: Callable[[], int] = lambda: time.time_ns() // 1000
        self._stream = (1, *self.key, self.shard)
        self._publisher = publisher
        self._padding = "0" * padding

    @property
    def chain(self) -> list[int]:
        """Every `seq` that a client with the whole stream has seen."""
        found = [msgspec.json.decode(record) for record in self.records]
        return [record["seq"] for record in found if record["type"] not in UNCHAINED]

    def tick(self, fields: Fields | None = None, *, step: int = 7) -> Record:
        """The next tick, not published."""
        seq = (self.seq or 100) + step
        tick = self._tick(seq, self.seq, seq, fields or self._fields(seq))
        return self._record(encode(tick), seq, 0)

    def reset(self, state: Any = None, *, repair: Repair = "snapshot", step: int = 50) -> Record:
        seq = (self.seq or 100) + step
        reset = Reset.at(
            self.key,
            self.shard,
            (self.epoch, seq),
            self.seq,
            (self.clock(), self.clock()),
            "gap",
            msgspec.Raw(encode(state)) if state is not None else None,
            missed=Missed((self.seq or 0) + 1, seq - 1),
        )
        # Older writers also said `refilled`.
        payload = encode(msgspec.structs.replace(reset, repair=repair))
        return self._record(payload, seq, 0)

    def status(self, state: StreamState = "live") -> Record:
        seq = self.seq or 0
        place = (*self._stream, self.epoch, seq, self.sub + 1)
        status = Status(*place, state, self.clock(), "test", self.clock())
        return self._record(encode(status), seq, self.sub + 1)

    def late(
        self,
        missed: Missed = _FIRST_TRADE,
        *,
        trades: Sequence[int] = (),
        open: Sequence[Missed] = (),
        lost: Sequence[Missed] = (),
    ) -> Record:
        """What became known of a gap that was announced before, whenever that was."""
        seq = self.seq or 0
        ticks = [self._tick(trade, trade - 1, None, self._fields(trade)) for trade in trades]
        place = (*self._stream, self.epoch, seq, self.sub + 1)
        reason = "found" if trades else "denied" if lost else "open"
        late = Late(*place, missed, ticks, list(open), list(lost), reason, self.clock())
        return self._record(encode(late), seq, self.sub + 1)

    async def publish(self, *records: Record) -> None:
        """Store them in the log."""
        assert self._publisher is not None
        for record in records:
            await self._publisher.send(record)
        await self._publisher.flush()

    async def ticks(self, count: int) -> None:
        """Publish `count` ticks."""
        await self.publish(*(self.tick() for _ in range(count)))

    def _tick(self, seq: int, prev: int | None, venue_seq: int | None, fields: Fields) -> Tick:
        times = (self.clock(), self.clock())
        return Tick(*self._stream, self.epoch, seq, prev, venue_seq, *times, fields)

    def _record(self, payload: bytes, seq: int, sub: int) -> Record:
        self.sub = sub
        if sub == 0:
            self.seq = seq
        self.records.append(payload)
        return Record(self.subject, payload, Position(self.epoch, seq, sub))

    def _fields(self, seq: int) -> Fields:
        if self.key.channel == "book":
            return Fields(changes=[("buy", str(seq % 100 + 1), "1"), ("sell", "500", str(seq))])
        trade = Trade(f"{seq}.5", "0.1", "buy", seq, self.clock())
        if self.key.channel == "trades":
            return Fields(last_trade=trade)
        best = Level(f"{seq}.4" + self._padding, "1"), Level(f"{seq}.6", "1")
        return Fields(last_trade=trade, best_bid=best[0], best_ask=best[1], volume_30d="1")


@asynccontextmanager
async def under_load(*markets: Market, every_s: float, ticks: int = 1) -> AsyncIterator[None]:
    """Meanwhile each of `markets` publishes `ticks` ticks, then rests for `every_s`, and again."""

    async def load() -> None:
        while True:
            for market in markets:
                await market.ticks(ticks)
            await asyncio.sleep(every_s)  # the load's own pace: nothing is waited for

    async with asyncio.TaskGroup() as group:
        loading = group.create_task(load(), name="load")
        try:
            yield
        finally:
            loading.cancel()
