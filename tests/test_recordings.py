"""Real recordings through the whole pure path, against a fold that knows nothing of the platform.

Frames are fed to the ingestor's streams, their raw records to the normalizer, its ticks to the fold
that snapshots are made of. The independent fold is a dict for each side of each product.
"""

from __future__ import annotations

import gzip
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from services.common.domain.fold import Fold
from services.common.stream import Position, Record
from services.common.subjects import StreamKey, key_of
from services.common.wire import Reset, Tick, decode_record
from services.ingestor.integrity.book_replica import BookReplica
from services.ingestor.integrity.sequencer import RULES, Sequencer
from services.ingestor.integrity.silence import Silence, SilenceRule
from services.ingestor.streams import BookStream, ProductStreams, TickerStream, TradesStream, Want
from services.ingestor.streams.raw_writer import RawStreamWriter
from services.ingestor.streams.stream import StreamStateTracker
from services.ingestor.testing import Counts
from services.ingestor.venues.base import Kind
from services.ingestor.venues.coinbase import CoinbaseFeed
from services.normalizer.normalize import Normalizer

Levels = dict[str, dict[Decimal, Decimal]]
# The auditor looks every five seconds; shorter windows judge more, and forgive less.
WINDOW_US = 2_000_000
SIDES = {"buy": "bids", "sell": "asks"}


class Platform:
    """Ingestor's streams, normalizer and fold, joined without anything in between."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Want]] = []
        self.counts = Counts()
        self.folds: dict[StreamKey, Fold] = {}
        self.trade_ids: defaultdict[str, list[int]] = defaultdict(list)
        self.resets: list[Reset] = []
        self.products: dict[str, ProductStreams] = {}
        # What tickers and trades contradicted in the books, window by window.
        self.contradictions: list[str] = []
        self._judged = 0
        self._feed = CoinbaseFeed()
        self._normalizer = Normalizer(8)
        self._ts = 0

    def take(self, ts: int, frame: bytes) -> None:
        """`ts`: when the frame was received, µs; 0 where the recording does not say."""
        event = self._feed.parse(frame)
        self._ts = max(self._ts, ts or event.time)
        if self._ts - self._judged > WINDOW_US:
            self._judged = self._ts
            self._judge()
        if event.product:
            streams = self.products.get(event.product) or self._streams(event.product)
            streams.feed(event, frame, self._ts)

    def _judge(self) -> None:
        for streams in self.products.values():
            assert isinstance(streams.book, BookStream)
            replica = streams.book.replica
            assert replica is not None
            replica.fold(replica.pop_updates())
            found = replica.judge(replica.pop_evidence())
            if found is not None:
                self.contradictions.append(f"{streams.product}: {found}")

    def _streams(self, product: str) -> ProductStreams:
        def parts(channel: str) -> tuple[RawStreamWriter, StreamStateTracker, Sequencer]:
            key = StreamKey("coinbase", channel, product)
            writer = RawStreamWriter(key, "test", self._offer, epoch=1)
            return writer, StreamStateTracker(writer, self._ts), Sequencer(RULES[channel])

        def ask(want: Want) -> None:
            self.asked.append((product, want))

        replica = BookReplica()
        streams = ProductStreams(
            product,
            TradesStream(*parts("trades"), lambda: ask(Want.TRADES), self.counts),
            BookStream(*parts("book"), lambda: ask(Want.BOOK), self.counts, replica=replica),
            TickerStream(*parts("ticker"), lambda: ask(Want.TICKER), self.counts),
            ask,
        )
        self.products[product] = streams
        streams.connected(self._ts)
        return streams

    def _offer(self, record: Record) -> bool:
        key = key_of(record.subject)
        raw = self._normalizer.read(record.subject, Position(*record.position), record.payload)
        output = self._normalizer.normalize(key, raw)
        assert output.refused == ()
        fold = self.folds.setdefault(key, Fold(key))
        for out in output.records:
            entry = decode_record(out.payload)
            if isinstance(entry, Tick | Reset):
                assert entry.prev == (fold.position.seq if fold.position else None)
                assert fold.apply(entry)
            if isinstance(entry, Reset):
                self.resets.append(entry)
            elif isinstance(entry, Tick) and key.channel == "trades":
                assert entry.fields.last_trade is not None
                self.trade_ids[key.product].append(entry.fields.last_trade.trade_id)
        return True

    def book(self, product: str) -> Levels:
        book = self.folds[StreamKey("coinbase", "book", product)].book
        return {
            "bids": {Decimal(price): Decimal(size) for price, size in book.bids()},
            "asks": {Decimal(price): Decimal(size) for price, size in book.asks()},
        }


class Independent:
    """Books and trades straight from the frames."""

    def __init__(self) -> None:
        self.books: dict[str, Levels] = {}
        self.trade_ids: defaultdict[str, list[int]] = defaultdict(list)
        self.updates = 0
        self.same_time = 0
        self._times: dict[str, str] = {}

    def take(self, frame: dict[str, Any]) -> None:
        product = frame.get("product_id", "")
        if frame["type"] == "snapshot":
            self.books[product] = {
                side: {Decimal(price): Decimal(size) for price, size in frame[side]}
                for side in ("bids", "asks")
            }
        elif frame["type"] == "l2update":
            self.updates += 1
            self.same_time += frame["time"] == self._times.get(product)
            self._times[product] = frame["time"]
            for side, price, size in frame["changes"]:
                levels = self.books[product][SIDES[side]]
                if Decimal(size):
                    levels[Decimal(price)] = Decimal(size)
                else:
                    levels.pop(Decimal(price), None)
        elif frame["type"] == "match":
            self.trade_ids[product].append(frame["trade_id"])


def recorded(path: Path) -> Iterator[tuple[int, bytes]]:
    """(receive time in µs or 0, frame) of a recording: bare lines, or those of a recorder.

    A recorder's lines begin with the receive time; what it sent has an address in front.
    """
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
        for line in lines:
            found = re.fullmatch(rb"(?:(\d+\.\d+): )?(\{.*\})\s*", line)
            if found is not None:
                yield int(float(found[1] or 0) * 1e6), found[2]


def play(frames: Iterable[tuple[int, bytes]]) -> tuple[Platform, Independent]:
    platform, independent = Platform(), Independent()
    for ts, frame in frames:
        platform.take(ts, frame)
        independent.take(json.loads(frame))
    return platform, independent


@pytest.mark.parametrize(
    ("name", "updates", "same_time"),
    [("coinbase/live-btc-eth.ndjson", 1_898, 0), ("coinbase/level2-2021.ws.gz", 9_719, 1_442)],
)
def test_a_recording_gives_the_books_and_trades_that_its_frames_say(
    captures: Path, name: str, updates: int, same_time: int
) -> None:
    platform, independent = play(recorded(captures / name))
    assert (independent.updates, independent.same_time) == (updates, same_time)
    assert independent.books
    assert {product: platform.book(product) for product in independent.books} == independent.books
    assert platform.trade_ids == independent.trade_ids
    # Nothing in them was suspect, and nothing was left out.
    assert platform.asked == []
    assert platform.counts.gaps == []
    assert platform.contradictions == []
    assert [streams.book.duplicates for streams in platform.products.values() if streams.book] == [
        0
    ] * len(platform.products)
    assert {reset.repair for reset in platform.resets} == {"snapshot"}
    for streams in platform.products.values():
        book = streams.book
        assert isinstance(book, BookStream)
        assert book.replica is not None
        book.replica.fold(book.replica.pop_updates())
        levels = independent.books[streams.product]
        image = {
            side: [[str(price), str(size)] for price, size in rows.items()]
            for side, rows in levels.items()
        }
        assert book.replica.contradicted(json.dumps(image).encode()) == {}
        assert not book.replica.crossed


@pytest.mark.parametrize(("product", "from_s"), [("BTC-USD", 3), ("ETH-USD", 5)])
def test_a_book_whose_updates_stop_is_suspect_within_four_seconds(
    captures: Path, product: str, from_s: int
) -> None:
    platform, feed, began = Platform(), CoinbaseFeed(), 0
    for ts, frame in recorded(captures / "coinbase/live-btc-eth.ndjson"):
        event = feed.parse(frame)
        if event.kind is not Kind.TRADE_SEED:
            began = began or event.time
        since_s = (event.time - began) / 1e6
        if since_s > from_s + 4:
            break
        if event.kind is Kind.BOOK_UPDATE and event.product == product and since_s >= from_s:
            continue
        platform.take(ts, frame)
    assert (product, Want.BOOK) in platform.asked
    assert set(platform.counts.gaps) == {"silent"}


@pytest.mark.parametrize("steps", [1, 20])
@pytest.mark.parametrize("name", ["coinbase/live-btc-eth.ndjson", "coinbase/level2-2021.ws.gz"])
def test_no_sequence_moved_for_a_quarter_of_a_second_without_an_update(
    captures: Path, name: str, steps: int
) -> None:
    """As if each ticker and trade were a heartbeat: the older recording has none."""
    silences: defaultdict[str, Silence] = defaultdict(lambda: Silence(SilenceRule(steps, 250_000)))
    newest: defaultdict[str, int] = defaultdict(int)
    feed, now = CoinbaseFeed(), 0
    for ts, line in recorded(captures / name):
        frame = json.loads(line)
        if frame["type"] in ("subscriptions", "last_match"):
            continue
        now = max(now, ts or feed.parse(line).time)
        product = frame["product_id"]
        if frame["type"] == "l2update":
            silences[product].update()
        elif frame["type"] == "snapshot":
            silences[product].base()
        else:
            newest[product] = max(newest[product], frame["sequence"])
            assert silences[product].heartbeat(newest[product], now) is None
    assert len(newest) in (2, 10)


def test_three_updates_of_one_time_all_reach_the_book() -> None:
    time = "2021-04-17T17:00:00.000001Z"
    frames = [
        {"type": "snapshot", "bids": [["0.0060", "1"]], "asks": [["0.0062", "1"]]},
        {"type": "l2update", "time": time, "changes": [["sell", "0.0062", "0.0"]]},
        {"type": "l2update", "time": time, "changes": [["sell", "0.00615", "3"]]},
        {"type": "l2update", "time": time, "changes": [["buy", "0.0061", "6"]]},
    ]
    platform, independent = play(
        (1_618_678_800_000_002, json.dumps({"product_id": "BTC-USD", **frame}).encode())
        for frame in frames
    )
    assert platform.book("BTC-USD") == independent.books["BTC-USD"]
    assert platform.book("BTC-USD")["bids"] == {Decimal("0.0061"): 6, Decimal("0.006"): 1}
