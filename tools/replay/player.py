"""Publishes recorded raw records at their own pace, or faster, with a pulse of its own.

The records' receive times are those of the recording. The pulses say that they are received now, so
that gateways do not call a replay that goes on stale, and one that ended they do. A terminal is
shown how far it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from services.common.errors import BrokerUnavailable
from services.common.stream import Broker, Position, Publisher, Record
from services.common.subjects import RAW_LOG, StreamKey, pulse_key, raw_subject
from services.common.wire import RECORD_VERSION, PulseBody, RawRecord, encode, to_raw
from tools.replay.records import Ledger, Source

# Records between two turns of the event loop at full speed, and between two reports.
_TURN = 512
_PULSE_S = 2.0
_LINE = "replay"


class Tempo:
    """When a record is due, seconds since the replay began; with `speed` 0 at once. Pure."""

    def __init__(self, speed: float) -> None:
        self._speed = speed
        self._first: int | None = None

    def due(self, ts: int) -> float:
        if self._first is None:
            self._first = ts
        return max(0, ts - self._first) / 1e6 / self._speed if self._speed else 0.0


@dataclass
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

    broker: Broker | None
    tempo: Tempo
    publish: bool = field(kw_only=True)
    on_progress: Callable[[int, int], None] = field(kw_only=True)
    ledger: Ledger = field(default_factory=Ledger)
    published: int = 0
    _heads: dict[StreamKey, Position | None] = field(default_factory=dict)

    async def play(self, source: Source) -> None:
        """Replay all of it; what was published is durable when this returns.

        Raises:
            BadSource, StoreError, OSError: the recording cannot be read (further).
            BrokerError: the log cannot be read, or refuses a record for its size.
        """
        if not self.publish or self.broker is None:
            await self._read(source, None)
            return
        epoch = await self.broker.log_epoch(RAW_LOG)
        publisher, pulses = await self.broker.publisher(), await self.broker.publisher()
        try:
            async with asyncio.TaskGroup() as group:
                beating = group.create_task(self._beat(pulses, epoch), name="pulse")
                await self._read(source, publisher)
                await publisher.flush()
                beating.cancel()
        except ExceptionGroup as failed:
            # One of the two; the other was cancelled for it.
            raise failed.exceptions[0] from failed
        finally:
            self.published = publisher.stats().stored
            await publisher.aclose()
            await pulses.aclose()

    async def _beat(self, publisher: Publisher, epoch: int) -> None:
        """Say of the products replayed so far that they are heard of; until cancelled."""
        while True:
            now = time.time_ns() // 1000
            products: dict[str, set[str]] = {}
            for key in self.ledger.streams:
                products.setdefault(key.venue, set()).add(key.product)
            for venue, found in products.items():
                key = pulse_key(venue, _LINE)
                body = to_raw(PulseBody(sorted(found)))
                raw = RawRecord(
                    RECORD_VERSION, "pulse", *key, epoch, now, 0, None, now, _LINE, body
                )
                await publisher.send(Record(raw_subject(key), encode(raw), Position(epoch, now)))
            await asyncio.sleep(_PULSE_S)

    async def _read(self, source: Source, publisher: Publisher | None) -> None:
        clock = asyncio.get_running_loop().time
        began = clock()
        count = 0
        async with contextlib.aclosing(source.records()) as records:
            async for recorded in records:
                head = await self._head(recorded.key)
                already = head is not None and recorded.position <= head
                self.ledger.add(recorded, already=already)
                count += 1
                if count % _TURN == 0:
                    self.on_progress(recorded.ts, count)
                    await asyncio.sleep(0)
                if publisher is None or already:
                    continue
                wait = began + self.tempo.due(recorded.ts) - clock()
                if wait > 0:
                    self.on_progress(recorded.ts, count)
                    await asyncio.sleep(wait)
                await publisher.send(recorded.record())
        self.on_progress(self.ledger.last_ts, count)

    async def _head(self, key: StreamKey) -> Position | None:
        """Where the stream's log stood when its first record was met."""
        if key not in self._heads:
            last = None
            if self.broker is not None:
                try:
                    last = await self.broker.last(raw_subject(key))
                except BrokerUnavailable:
                    # To look at, a log that nobody has made yet is an empty one.
                    if self.publish:
                        raise
            self._heads[key] = last.position if last is not None else None
        return self._heads[key]


@contextmanager
def progress_bar(
    span: tuple[int, int] | None, speed: float
) -> Iterator[Callable[[int, int], None]]:
    """Shows how far in recorded time the replay is, of `span` (microseconds; None: nothing there).

    Yields what is told: the record received at (microseconds) is on its way, so many in all.
    `speed` 0 is at full speed.
    """
    first, last = span or (0, 0)
    console = Console(stderr=True)
    with Progress(
        TextColumn(f"replay, {f'{speed:g}x' if speed else 'full speed'}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[at]}  {task.fields[records]:,} records"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        task = progress.add_task("replay", total=max(1, last - first), at="", records=0)

        def reached(ts: int, records: int) -> None:
            at = datetime.fromtimestamp(ts / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S")
            progress.update(task, completed=max(0, ts - first), at=at, records=records)

        yield reached
