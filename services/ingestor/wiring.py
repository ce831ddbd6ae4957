"""Feeds and the streams of their products put together, each going on where its log ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from services.common.clock import now_us
from services.common.errors import PositionLost, VenueError, VenueRefused
from services.common.stream import Broker, Position
from services.common.subjects import RAW_LOG, StreamKey, raw_subject
from services.common.wire import UNREADABLE, RawRecord, decode_raw
from services.ingestor.cb_ws import Feed
from services.ingestor.integrity.book_replica import BookReplica
from services.ingestor.integrity.sequencer import ORDERS_RULE, RULES, Sequencer
from services.ingestor.integrity.silence import SilenceRule
from services.ingestor.metrics import Metrics
from services.ingestor.publish.raw_publisher import RawPublisher, UnreadableFrames
from services.ingestor.repair.healer import Resubscribe
from services.ingestor.settings import Settings
from services.ingestor.streams import (
    BookStream,
    OrdersStream,
    ProductStreams,
    TickerStream,
    TradesStream,
    Want,
)
from services.ingestor.streams.raw_writer import OpenGaps, RawStreamWriter
from services.ingestor.streams.stream import StreamStateTracker
from services.ingestor.streams.waiting import WaitingStreams
from services.ingestor.venues.base import VenueRest
from services.ingestor.venues.coinbase import CHANNELS, FULL, CoinbaseFeed

log = structlog.get_logger(__name__)

_VALIDATE_TIMEOUT_S = 5.0
_PAGE = 64
# September 2001 in µs; the largest venue sequence in sight is below a thousandth of it.
_LEAST_TIME_US = 10**15

# What each stream is made of.
_Parts = tuple[RawStreamWriter, StreamStateTracker, Sequencer]


@dataclass(eq=False)
class FeedFactory:
    """Makes feeds and product streams; BrokerUnavailable: where these end in the log is unknown."""

    _settings: Settings
    _broker: Broker
    _metrics: Metrics
    raw_publisher: RawPublisher
    unreadable: UnreadableFrames
    # Told what a product's streams need fetched, and how its book is subscribed anew.
    want: Callable[[ProductStreams, Want, Resubscribe], None]

    def __post_init__(self) -> None:
        self._venue = CoinbaseFeed(
            self._settings.credentials, orders=FULL in self._settings.coinbase_channels
        )

    async def feed(self, name: str, products: Sequence[str], *, waiting: bool = False) -> Feed:
        """A connection, not made yet, that will serve `products`, or only listen to them."""
        feed = Feed(
            name,
            self._venue,
            self._settings,
            self.raw_publisher,
            self.unreadable,
            self._metrics,
        )
        for product in products:
            streams = WaitingStreams(product) if waiting else None
            await feed.add(streams or await self.product_streams(product, feed))
        return feed

    async def product_streams(self, product: str, feed: Feed) -> ProductStreams:
        """A product's streams for `feed`, each going on where it ends in the log."""

        def ask(want: Want) -> None:
            self.want(streams, want, feed.resubscribe_book)

        channels = sorted(
            {ours for named in self._settings.coinbase_channels for ours in CHANNELS[named]}
        )
        parts = {channel: await self._parts(channel, product) for channel in channels}
        trades, book, ticker = (parts.get(name) for name in ("trades", "book", "ticker"))
        metrics = self._metrics
        streams = ProductStreams(
            product,
            trades and TradesStream(*trades, lambda: ask(Want.TRADES), metrics),
            book and self._book(book, lambda: ask(Want.BOOK)),
            ticker and TickerStream(*ticker, lambda: ask(Want.TICKER), metrics),
            ask,
            self.unreadable.park,
        )
        return streams

    def _book(self, parts: _Parts, ask: Callable[[], None]) -> BookStream | OrdersStream:
        if self._settings.by_order:
            return OrdersStream(*parts, ask, self._metrics)
        settings = self._settings
        return BookStream(
            *parts,
            ask,
            self._metrics,
            replica=BookReplica() if settings.book_audit_period_ms else None,
            silence=silence_rule(settings),
        )

    async def _parts(self, channel: str, product: str) -> _Parts:
        key = StreamKey(self._venue.name, channel, product)
        by_order = channel == "book" and self._settings.by_order
        writer = await self._writer(key)
        if channel == "book":
            _continue_book(writer, by_order=by_order)
        # A book's position is forced to increase and so says nothing of the venue's clock.
        held = None if channel == "book" else writer.seq
        sequencer = Sequencer(ORDERS_RULE if by_order else RULES[channel], held, writer.heard)
        return writer, StreamStateTracker(writer, now_us()), sequencer

    async def _writer(self, key: StreamKey) -> RawStreamWriter:
        line, offer = self._settings.line, self.raw_publisher.offer
        last = await self._broker.last(raw_subject(key))
        if last is None:
            epoch = await self._broker.log_epoch(RAW_LOG)
            return RawStreamWriter(key, line, offer, epoch=epoch)
        epoch, seq, sub = last.position
        heard = 0
        gaps: OpenGaps = ()
        told: tuple[int, int] | None = None
        try:
            record = decode_raw(last.payload)
        except UNREADABLE as error:
            # Somebody else's. Where it stands is known, and what it hides shows as a break there.
            log.error("raw_log_end_unreadable", stream=str(key), seq=seq, reason=str(error))
        else:
            # Not later than now: a clock was ahead then, or somebody else wrote it.
            heard = min(record.ts_recv, now_us())
            gaps, told = await open_gaps(self._broker, record)
        return RawStreamWriter(
            key,
            line,
            offer,
            epoch=epoch,
            seq=seq or None,
            sub=sub,
            heard=heard,
            open_gaps=gaps,
            open_at=told,
        )


async def open_gaps(broker: Broker, last: RawRecord) -> tuple[OpenGaps, tuple[int, int] | None]:
    """The gaps that are open after a stream's newest record, and the place that lists them."""
    if last.open_gaps is not None:
        return tuple(last.open_gaps), (last.seq, last.sub)
    if last.open_at is None:
        return (), None
    told = Position(last.epoch, *last.open_at)
    subject = raw_subject(StreamKey(last.venue, last.channel, last.product))
    cursor = await broker.seek(subject, Position(told.epoch, told.seq - 1))
    try:
        while True:
            page = await broker.read(subject, cursor, limit=_PAGE)
            for message in page.messages:
                if message.position == told:
                    found = decode_raw(message.payload)
                    return tuple(found.open_gaps or ()), last.open_at
                if message.position > told:
                    raise PositionLost(subject, cursor, None)
            if page.at_head:
                raise PositionLost(subject, cursor, None)
            cursor = page.cursor
    except (PositionLost, *UNREADABLE) as error:
        # It is written again long before it expires, so the log was cut short.
        log.error("open_gaps_forgotten", subject=subject, at=last.open_at, reason=str(error))
        return (), None


def silence_rule(settings: Settings) -> SilenceRule:
    """When a book without updates is suspect."""
    return SilenceRule(settings.book_silent_steps, settings.book_silent_grace_ms * 1000)


def _continue_book(writer: RawStreamWriter, *, by_order: bool) -> None:
    """Begin a new epoch where the book's last record was numbered by the other source.

    A time in µs and a venue sequence cannot be confused: they are a factor of thousands apart.
    """
    if writer.seq is not None and (writer.seq < _LEAST_TIME_US) is not by_order:
        writer.restart(now_us())


async def tradable(rest: VenueRest, wanted: Sequence[str]) -> list[str]:
    """Those of `wanted` that the venue will serve; all of them when it does not answer.

    Raises:
        VenueRefused: it will serve none.
    """
    try:
        async with asyncio.timeout(_VALIDATE_TIMEOUT_S):
            known = await rest.tradable()
    except (TimeoutError, VenueError) as error:
        log.warning("products_not_validated", reason=str(error) or type(error).__name__)
        return list(wanted)
    good = []
    for product in wanted:
        problem = known.get(product, "unknown to the venue")
        if problem is None:
            good.append(product)
        else:
            log.warning("product_left_out", product=product, reason=problem)
    if not good:
        raise VenueRefused("products", f"none of {', '.join(wanted)} can be subscribed")
    return good
