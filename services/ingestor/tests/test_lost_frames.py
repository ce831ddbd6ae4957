"""A real recording with frames taken out at random: what is found missing is what was taken."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from services.common.subjects import StreamKey
from services.ingestor.integrity.sequencer import RULES, Sequencer
from services.ingestor.streams import BookStream, ProductStreams, TradesStream
from services.ingestor.streams.raw_writer import RawStreamWriter
from services.ingestor.streams.stream import StreamStateTracker
from services.ingestor.testing import Counts, RawLog
from services.ingestor.venues.base import Event, Kind, TradeRow
from services.ingestor.venues.coinbase import CoinbaseFeed

SEEDS = 100
NOW = 1_783_465_097_000_000


class Product:
    """A streams whose wants are served at once from what really happened."""

    def __init__(self, product: str, trades: dict[int, bytes]) -> None:
        self.log = RawLog()
        self.book_log = RawLog()
        self.truth = trades
        self.found: set[int] = set()
        self.counts = Counts()
        writer = RawStreamWriter(
            StreamKey("coinbase", "trades", product), "t", self.log.offer, epoch=1
        )
        book = RawStreamWriter(
            StreamKey("coinbase", "book", product), "t", self.book_log.offer, epoch=1
        )
        self.trades = TradesStream(
            writer,
            StreamStateTracker(writer, NOW),
            Sequencer(RULES["trades"]),
            lambda: None,
            self.counts,
        )
        self.book = BookStream(
            book, StreamStateTracker(book, NOW), Sequencer(RULES["book"]), lambda: None, self.counts
        )
        self.streams = ProductStreams(product, self.trades, self.book, None, lambda _want: None)
        self.streams.connected(NOW)

    def heal(self) -> None:
        while (missing := self.trades.missing()) is not None:
            ids = range(missing.first, missing.last + 1)
            self.found.update(ids)
            self.trades.refill([TradeRow(n, NOW, self.truth[n]) for n in ids], NOW)


@pytest.fixture(scope="module")
def recording(captures: Path) -> list[tuple[Event, bytes]]:
    feed = CoinbaseFeed()
    with (captures / "coinbase" / "live-btc-eth.ndjson").open("rb") as lines:
        frames = [(feed.parse(line), line.rstrip()) for line in lines]
    return [frame for frame in frames if frame[0].kind is not Kind.SUBSCRIBED]


@pytest.mark.parametrize("share", [0.0, 0.01, 0.1])
def test_every_lost_trade_is_found_and_nothing_else(
    recording: list[tuple[Event, bytes]], share: float
) -> None:
    truth: dict[str, dict[int, bytes]] = {"BTC-USD": {}, "ETH-USD": {}}
    for event, body in recording:
        if event.kind in (Kind.TRADE, Kind.TRADE_SEED):
            truth[event.product][event.number] = body
    for seed in range(SEEDS if share else 1):
        draw = Random(seed)
        products = {name: Product(name, trades) for name, trades in truth.items()}
        lost: dict[str, set[int]] = {name: set() for name in products}
        lost_other: dict[str, int] = dict.fromkeys(products, 0)
        marks: dict[str, list[int]] = {name: [] for name in products}
        for event, body in recording:
            product = products[event.product]
            greeting = event.kind in (Kind.TRADE_SEED, Kind.BOOK_SNAPSHOT)
            if not greeting and draw.random() < share:
                if event.kind is Kind.TRADE:
                    lost[event.product].add(event.number)
                else:
                    lost_other[event.product] += 1
                continue
            if event.kind is Kind.HEARTBEAT:
                marks[event.product].append(event.trade_id)
            product.streams.feed(event, body, NOW)
            product.heal()
        for name, product in products.items():
            seqs = product.log.seqs("frame")
            # What was lost after the last trade that arrived is known once two heartbeats say so.
            known = max(seqs[-1], marks[name][-2])
            assert product.found == {number for number in lost[name] if number <= known}
            assert seqs == list(range(seqs[0], known + 1))
            product.log.check_chain()
            product.book_log.check_chain()
            if not lost[name] and not lost_other[name]:
                assert product.counts.gaps == []
                assert not product.book.suspect
            if product.found:
                assert product.book.suspect, "the book of a product that lost a trade is suspect"
