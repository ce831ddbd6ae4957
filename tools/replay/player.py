"""Publishes recorded raw records at their own pace, or faster."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable

from services.common.errors import BrokerUnavailable
from services.common.stream import Broker, Position, Publisher
from services.common.subjects import StreamKey, raw_subject
from tools.replay.records import Ledger, Recorded
from tools.replay.source import Source

# Records between two turns of the event loop at full speed, and between two reports.
_TURN = 512


class Tempo:
    """When a record is due. Pure: seconds since the replay began.

    Args:
        speed: how many times faster than recorded; 0 is at once.
    """

    def __init__(self, speed: float) -> None:
        self._speed = speed
        self._first: int | None = None

    def due(self, ts: int) -> float:
        """Seconds after the beginning at which the record received at `ts` is due."""
        if self._first is None:
            self._first = ts
        return max(0, ts - self._first) / 1e6 / self._speed if self._speed else 0.0


class Player:
    """One replay.

    Records that a stream's log has reached already are passed over, so that a replay which was
    interrupted can be run again, and one into a log that went on does not turn it back.

    Args:
        broker: open, or None: nothing is published and every log counts as empty.
        tempo: pace; not used without `publish`.
        publish: False only looks at what would be published.
        on_progress: told the receive time that was reached and the records so far, now and then.
    """

    def __init__(
        self,
        broker: Broker | None,
        tempo: Tempo,
        *,
        publish: bool,
        on_progress: Callable[[int, int], None],
    ) -> None:
        self.ledger = Ledger()
        self.published = 0
        self._broker = broker
        self._tempo = tempo
        self._publish = publish
        self._on_progress = on_progress
        self._heads: dict[StreamKey, Position | None] = {}

    async def play(self, source: Source) -> None:
        """Replay all of it; what was published is durable when this returns.

        Raises:
            BadSource, StoreError, OSError: the recording cannot be read (further).
            BrokerError: the log cannot be read, or refuses a record for its size.
        """
        publisher = None
        if self._publish and self._broker is not None:
            publisher = await self._broker.publisher()
        try:
            async with contextlib.aclosing(source.records()) as records:
                await self._all(records, publisher)
            if publisher is not None:
                await publisher.flush()
        finally:
            if publisher is not None:
                self.published = publisher.stats().stored
                await publisher.aclose()

    async def _all(self, records: AsyncGenerator[Recorded], publisher: Publisher | None) -> None:
        clock = asyncio.get_running_loop().time
        began = clock()
        count = 0
        async for recorded in records:
            head = await self._head(recorded.key)
            already = head is not None and recorded.position <= head
            self.ledger.add(recorded, already=already)
            count += 1
            if count % _TURN == 0:
                self._on_progress(recorded.ts, count)
                await asyncio.sleep(0)
            if publisher is None or already:
                continue
            wait = began + self._tempo.due(recorded.ts) - clock()
            if wait > 0:
                self._on_progress(recorded.ts, count)
                await asyncio.sleep(wait)
            await publisher.send(recorded.record())
        self._on_progress(self.ledger.last_ts, count)

    async def _head(self, key: StreamKey) -> Position | None:
        """Where the stream's log stood when its first record was met."""
        if key not in self._heads:
            self._heads[key] = await self._read_head(key)
        return self._heads[key]

    async def _read_head(self, key: StreamKey) -> Position | None:
        if self._broker is None:
            return None
        try:
            last = await self._broker.last(raw_subject(key))
        except BrokerUnavailable:
            # To look at, a log that nobody has made yet is an empty one.
            if self._publish:
                raise
            return None
        return last.position if last is not None else None
