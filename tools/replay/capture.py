"""A capture (one venue message a line) as raw records, made by the ingestor's own pure parts.

Nothing of the network is there, so what the capture lacks cannot be fetched: missing trades become
a recorded gap, and a suspect book waits for the capture's next snapshot. Receive times are the
venue's own event times, and the numbering's epoch is the first of them: the same capture always
gives the same records.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping
from itertools import batched
from pathlib import Path

from services.common.stream import Record
from services.common.subjects import StreamKey
from services.ingestor.integrity.sequencer import RULES, Sequencer
from services.ingestor.streams import BookStream, ProductStreams, TickerStream, TradesStream, Want
from services.ingestor.streams.raw_writer import RawStreamWriter
from services.ingestor.streams.stream import StreamStateTracker
from services.ingestor.venues.base import Event, Kind, MalformedFrame
from services.ingestor.venues.coinbase import CoinbaseFeed
from tools.recording import Connected, Recording
from tools.replay.records import BadSource, Recorded, Selection, Source, read_line

_LINE = "replay"
# Frames made into records before the event loop gets a turn.
_CHUNK = 256


class _Events:
    """Streams tell what happens to them; here the records themselves say it."""

    def gap_found(self, key: StreamKey, cause: str) -> None: ...

    def resynced(self, key: StreamKey, outcome: str, seconds: float) -> None: ...

    def late(self, key: StreamKey, outcome: str, count: int) -> None: ...

    def dropped(self, key: StreamKey, reason: str, count: int) -> None: ...


class CaptureReader:
    """Fed a capture's frames; `take` gives the raw records they came to."""

    def __init__(self, selection: Selection) -> None:
        self._selection = selection
        self._venue = CoinbaseFeed()
        self._products: dict[str, ProductStreams] = {}
        self._wants: list[tuple[ProductStreams, Want]] = []
        self._made: list[Recorded] = []
        self._epoch = 0
        # Frames that came before the first one with a time.
        self._undated: list[tuple[Event, bytes]] = []
        self.ts = 0

    def feed(self, frame: bytes, received: int | None = None) -> None:
        """Take the next frame; `received` is when the recorder got it, µs, if it noted that.

        Raises:
            MalformedFrame: it is not a message of the venue.
        """
        if received is not None:
            self.ts = max(self.ts, received)
        try:
            event = self._venue.parse(frame)
        except MalformedFrame as error:
            self._unreadable(error, frame)
            raise
        # The trade before a subscription may be long past.
        if received is None and event.kind is not Kind.TRADE_SEED:
            self.ts = max(self.ts, event.time)
        if not event.product:
            return
        self._undated.append((event, frame))
        if self.ts:
            waiting, self._undated = self._undated, []
            for each, body in waiting:
                self._apply(each, body)

    def reconnected(self) -> None:
        """The recorder lost its connection here, and has a new one."""
        for streams in self._products.values():
            streams.lost("the recorder lost its connection", self.ts)
            streams.connected(self.ts)

    def end(self) -> None:
        """The capture is over: every stream says that nothing follows."""
        for streams in self._products.values():
            streams.lost("end of the recording", self.ts)

    def take(self) -> list[Recorded]:
        made, self._made = self._made, []
        return made

    def _apply(self, event: Event, body: bytes) -> None:
        streams = self._products.get(event.product)
        if streams is None:
            streams = self._products[event.product] = self._streams(event.product)
            streams.connected(self.ts)
        streams.feed(event, body, self.ts)
        self._give_up()

    def _give_up(self) -> None:
        """Nobody can be asked for the trades that are missing."""
        while self._wants:
            asking, want = self._wants.pop()
            if want is Want.TRADES and asking.trades is not None:
                asking.trades.give_up(self.ts, denied=True)

    def _unreadable(self, error: MalformedFrame, frame: bytes) -> None:
        """What the ingestor does: nobody may go on as if nothing had been said."""
        about = self._venue.damaged(frame)
        named = self._products.get(about.product)
        for streams in (named,) if about.product else tuple(self._products.values()):
            if streams is not None:
                streams.unreadable(about, f"a message cannot be read: {error}"[:200], self.ts)
        self._give_up()

    def _streams(self, product: str) -> ProductStreams:
        self._epoch = self._epoch or self.ts
        events = _Events()

        def ask(want: Want) -> None:
            self._wants.append((streams, want))

        def parts(channel: str) -> tuple[RawStreamWriter, StreamStateTracker, Sequencer] | None:
            key = StreamKey(self._venue.name, channel, product)
            if not self._selection.wants_stream(key):
                return None
            writer = RawStreamWriter(key, _LINE, self._offer, epoch=self._epoch)
            return writer, StreamStateTracker(writer, self.ts), Sequencer(RULES[channel])

        trades, book, ticker = map(parts, ("trades", "book", "ticker"))
        streams = ProductStreams(
            product,
            trades and TradesStream(*trades, lambda: ask(Want.TRADES), events),
            book and BookStream(*book, lambda: ask(Want.BOOK), events),
            ticker and TickerStream(*ticker, lambda: ask(Want.TICKER), events),
            ask,
        )
        return streams

    def _offer(self, record: Record) -> bool:
        self._made.append(read_line(record.payload))
        return True


def raw_records(recording: Recording, selection: Selection) -> Iterator[Recorded]:
    """The raw records of a capture; the selection's time range leaves out what lies outside.

    Lines that are no messages of the venue are counted in `recording.left_out`.
    """
    reader = CaptureReader(selection)
    for number, line in recording:
        if isinstance(line, Connected):
            reader.reconnected()
        else:
            try:
                reader.feed(line.body, line.received_us)
            except MalformedFrame as error:
                recording.leave_out(error.reason, number)
        yield from filter(selection.wants, reader.take())
    reader.end()
    yield from filter(selection.wants, reader.take())


class CaptureSource(Source):
    """A capture file, of any form that `tools.recording` knows."""

    def __init__(self, path: Path, selection: Selection) -> None:
        self._recording = Recording(path)
        self._selection = selection

    @property
    def left_out(self) -> Mapping[str, int]:
        return self._recording.left_out

    async def span(self) -> tuple[int, int] | None:
        return await asyncio.to_thread(self._span)

    def _span(self) -> tuple[int, int] | None:
        # Reading once more is cheaper than holding a capture of any size in memory.
        first: int | None = None
        last = 0
        for recorded in raw_records(self._recording, self._selection):
            first = recorded.ts if first is None else min(first, recorded.ts)
            last = max(last, recorded.ts)
        if first is None and self._recording.first is not None:
            path = self._recording.path
            raise BadSource(
                f"{path} is no batch of raw records, and holds no message: {self._recording.first}"
            )
        return None if first is None else (first, last)

    async def records(self) -> AsyncGenerator[Recorded]:
        for some in batched(raw_records(self._recording, self._selection), _CHUNK):
            for recorded in some:
                yield recorded
            await asyncio.sleep(0)
