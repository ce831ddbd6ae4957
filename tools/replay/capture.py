"""A capture (one venue message a line) as raw records, made by the ingestor's own pure parts.

Nothing of the network is there, so what the capture lacks cannot be fetched: missing trades become
a recorded gap, and a suspect book waits for the capture's next snapshot. Receive times are the
venue's own event times, and the numbering's epoch is the first of them: the same capture always
gives the same records.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from functools import partial
from itertools import batched
from pathlib import Path

from services.common.stream import Record
from services.common.subjects import StreamKey
from services.ingestor.condition import Condition
from services.ingestor.journal import Journal
from services.ingestor.lanes import BookLane, Desk, TickerLane, TradesLane, Want
from services.ingestor.sequencer import RULES, Sequencer
from services.ingestor.venues.base import Event, Kind, MalformedFrame, VenueFeed
from services.ingestor.venues.coinbase import CoinbaseFeed
from tools.replay.records import BadSource, Recorded, Selection, read_line
from tools.replay.source import Source

_LINE = "replay"
# Frames made into records before the event loop gets a turn.
_CHUNK = 256


class _Events:
    """Lanes tell what happens to them; here the records themselves say it."""

    def gap_found(self, key: StreamKey, cause: str) -> None: ...

    def resynced(self, key: StreamKey, outcome: str, seconds: float) -> None: ...

    def late(self, key: StreamKey, outcome: str, count: int) -> None: ...

    def dropped(self, key: StreamKey, reason: str, count: int) -> None: ...


class CaptureReader:
    """Fed a capture's frames; `take` gives the raw records they came to."""

    def __init__(self, selection: Selection, venue: VenueFeed | None = None) -> None:
        self._selection = selection
        self._venue = venue or CoinbaseFeed()
        self._desks: dict[str, Desk] = {}
        self._wants: list[tuple[Desk, Want]] = []
        self._made: list[Recorded] = []
        self._epoch = 0
        # Frames that came before the first one with a time.
        self._undated: list[tuple[Event, bytes]] = []
        self.ts = 0

    def feed(self, frame: bytes) -> None:
        """Take the next frame.

        Raises:
            BadSource: it is not a message of the venue.
        """
        try:
            event = self._venue.parse(frame)
        except MalformedFrame as error:
            raise BadSource(str(error)) from error
        # The trade before a subscription may be long past.
        if event.kind is not Kind.TRADE_SEED:
            self.ts = max(self.ts, event.time)
        if not event.product:
            return
        self._undated.append((event, frame))
        if self.ts:
            waiting, self._undated = self._undated, []
            for each, body in waiting:
                self._apply(each, body)

    def end(self) -> None:
        """The capture is over: every stream says that nothing follows."""
        for desk in self._desks.values():
            desk.lost("end of the recording", self.ts)

    def take(self) -> list[Recorded]:
        made, self._made = self._made, []
        return made

    def _apply(self, event: Event, body: bytes) -> None:
        desk = self._desks.get(event.product)
        if desk is None:
            desk = self._desks[event.product] = self._desk(event.product)
            desk.connected(self.ts)
        desk.feed(event, body, self.ts)
        while self._wants:
            asking, want = self._wants.pop()
            if want is Want.TRADES and asking.trades is not None:
                asking.trades.give_up(self.ts, denied=True)

    def _desk(self, product: str) -> Desk:
        self._epoch = self._epoch or self.ts
        events = _Events()

        def ask(want: Want) -> None:
            self._wants.append((desk, want))

        def parts(channel: str) -> tuple[Journal, Condition, Sequencer]:
            key = StreamKey(self._venue.name, channel, product)
            journal = Journal(key, _LINE, self._offer, epoch=self._epoch)
            return journal, Condition(journal, self.ts), Sequencer(RULES[channel])

        def wanted(channel: str) -> bool:
            return self._selection.wants_stream(StreamKey(self._venue.name, channel, product))

        asking: Callable[[Want], Callable[[], None]] = lambda want: partial(ask, want)  # noqa: E731 - a partial of a partial reads worse
        desk = Desk(
            product,
            TradesLane(*parts("trades"), asking(Want.TRADES), events) if wanted("trades") else None,
            BookLane(*parts("book"), asking(Want.BOOK), events) if wanted("book") else None,
            TickerLane(*parts("ticker"), asking(Want.TICKER), events) if wanted("ticker") else None,
            ask,
        )
        return desk

    def _offer(self, record: Record) -> bool:
        self._made.append(read_line(record.payload))
        return True


def raw_records(frames: Iterable[bytes], selection: Selection) -> Iterator[Recorded]:
    """The raw records of a capture; the selection's time range leaves out what lies outside.

    Raises:
        BadSource: with the number of the line that is no message of the venue.
    """
    reader = CaptureReader(selection)
    for number, frame in enumerate(frames, start=1):
        if not frame.strip():
            continue
        try:
            reader.feed(frame)
        except BadSource as error:
            raise BadSource(f"line {number}: {error}") from error
        yield from filter(selection.wants, reader.take())
    reader.end()
    yield from filter(selection.wants, reader.take())


class CaptureSource(Source):
    """A capture file."""

    def __init__(self, path: Path, selection: Selection) -> None:
        self._path = path
        self._selection = selection

    async def span(self) -> tuple[int, int] | None:
        return await asyncio.to_thread(self._span)

    def _span(self) -> tuple[int, int] | None:
        # Reading once more is cheaper than holding a capture of any size in memory.
        first: int | None = None
        last = 0
        for recorded in self._records():
            first = recorded.ts if first is None else min(first, recorded.ts)
            last = max(last, recorded.ts)
        return None if first is None else (first, last)

    async def records(self) -> AsyncGenerator[Recorded]:
        for some in batched(self._records(), _CHUNK):
            for recorded in some:
                yield recorded
            await asyncio.sleep(0)

    def _records(self) -> Iterator[Recorded]:
        try:
            with self._path.open("rb") as lines:
                yield from raw_records((line.rstrip(b"\r\n") for line in lines), self._selection)
        except BadSource as error:
            raise BadSource(f"{self._path}, {error}") from error
