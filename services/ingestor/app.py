"""The ingestor put together: what is started, in which order, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter

import structlog
from prometheus_client import CollectorRegistry

from services.common.errors import (
    BrokerClosed,
    BrokerError,
    BrokerFailed,
    BrokerUnavailable,
    RecordRefused,
    VenueError,
    VenueRefused,
)
from services.common.observability.health import Health
from services.common.resilience.backoff import Backoff
from services.common.resilience.circuit_breaker import Circuit, CircuitBreaker
from services.common.runtime import Stop
from services.common.stream.broker import Broker, Record
from services.common.stream.dead_letters import DeadLetters
from services.common.stream.invalid_log import InvalidLog
from services.common.stream.retention import RetentionWatch
from services.common.stream.specs import log_specs
from services.common.subjects import INVALID_LOG, RAW_LOG, StreamKey, key_of, raw_subject
from services.common.wire import UNREADABLE, decode_raw
from services.ingestor.cb_rest import CoinbaseRest
from services.ingestor.cb_ws import Feed
from services.ingestor.feed.options import FeedOptions
from services.ingestor.integrity.book_replica import BookReplica
from services.ingestor.integrity.sequencer import ORDERS_RULE, RULES, Sequencer
from services.ingestor.metrics import FeedCollector, Metrics
from services.ingestor.publish.raw_publisher import RawPublisher, refusal_of
from services.ingestor.publish.unreadable_frames import MAX_WAITING, UnreadableFrames
from services.ingestor.repair.book_audit import Auditor
from services.ingestor.repair.healer import Healer, now_us
from services.ingestor.repair.late_trades import LateTrades
from services.ingestor.repair.repair_queue import Repairs
from services.ingestor.settings import Settings
from services.ingestor.streams import (
    BookStream,
    OrdersStream,
    ProductStreams,
    TickerStream,
    TradesStream,
    Want,
)
from services.ingestor.streams.pulse import Pulse
from services.ingestor.streams.raw_writer import RECORD_REFUSED, RawStreamWriter, gap_instead
from services.ingestor.streams.restore import open_gaps
from services.ingestor.streams.stream_state import StreamStateTracker
from services.ingestor.venues.base import VenueRest
from services.ingestor.venues.coinbase import BY_ORDER, CHANNELS, FULL, CoinbaseFeed

log = structlog.get_logger(__name__)

_STATISTICS_S = 30.0
_HEALTH_S = 1.0
_PING_TIMEOUT_S = 2.0
_MEASURE_S = 1.0
_FLUSH_S = 60.0
_VALIDATE_TIMEOUT_S = 5.0
# Open gaps are written again so often, so that a restart finds them.
_RESTATE_S = 600.0
# September 2001 in µs; the largest venue sequence in sight is below a thousandth of it.
_LEAST_TIME_US = 10**15
# The worst of several circuits is shown.
_GRAVITY = attrgetter("value")


class Ingestor:
    """One ingestor over an open broker.

    `run` serves until it is told to stop. Everything else may be called while it runs.
    """

    def __init__(
        self, settings: Settings, broker: Broker, metrics: Metrics, health: Health
    ) -> None:
        self.settings = settings
        self.feeds: list[Feed] = []
        self._broker = broker
        self._metrics = metrics
        self._health = health
        channels = settings.coinbase_channels
        self._orders = not BY_ORDER.isdisjoint(channels)
        self._venue = CoinbaseFeed(settings.credentials, orders=FULL in channels)
        self._channels = sorted({ours for name in channels for ours in CHANNELS[name]})
        self._invalid = InvalidLog(broker)
        self._dead_letters = DeadLetters(self._invalid, keep=MAX_WAITING)
        self._unreadable = UnreadableFrames(self._dead_letters, metrics)
        self._raw_publisher: RawPublisher | None = None
        self._healer: Healer | None = None
        self._rest: VenueRest | None = None
        self._group: asyncio.TaskGroup | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._made = 0
        self._log_epoch: int | None = None
        self._changing = asyncio.Lock()
        self._breaker = CircuitBreaker(
            settings.rest_breaker_failures, settings.rest_breaker_recovery_ms / 1000
        )
        self._broker_breaker = CircuitBreaker(
            settings.broker_breaker_refusals, settings.broker_breaker_recovery_ms / 1000
        )
        self._collector = FeedCollector(
            lambda: [feed.stats() for feed in self.feeds], self._circuits, broker.storing
        )

    @property
    def registry(self) -> CollectorRegistry:
        """Where this ingestor's metrics are."""
        return self._metrics.registry

    async def run(self, stop: Stop) -> None:
        """Serve until `stop`; then end intake, make what was taken durable, and return.

        Raises:
            VenueRefused: none of the products can be subscribed.
            BrokerFailed: (in a group) the publisher broke; see `RawPublisher.offer`.
        """
        settings = self.settings
        await self._while_unavailable(stop)
        if stop.requested:
            return
        publisher = await self._broker.publisher(
            max_records=settings.broker_buffer_records,
            max_bytes=settings.broker_buffer_bytes,
            on_refused=self._on_refused,
        )
        self._log_epoch = await self._broker.log_epoch(RAW_LOG)
        raw_publisher = self._raw_publisher = RawPublisher(
            publisher,
            self._metrics,
            self._unreadable,
            max_records=settings.broker_buffer_records,
            max_bytes=settings.broker_buffer_bytes,
            breaker=self._broker_breaker,
        )
        self._metrics.registry.register(self._collector)
        try:
            async with CoinbaseRest(settings.coinbase_rest_url, breaker=self._breaker) as rest:
                self._rest = rest
                products = await self._tradable(rest, settings.coinbase_products)
                await self._serve(stop, raw_publisher, rest, products)
        finally:
            self._metrics.registry.unregister(self._collector)
            for feed in self.feeds:
                feed.stopped("ingestor stopped")
            abandoned = await raw_publisher.flush(settings.drain_timeout_ms / 1000)
            if abandoned:
                log.error("records_abandoned", count=abandoned)
            with contextlib.suppress(TimeoutError, BrokerClosed, BrokerFailed):
                async with asyncio.timeout(settings.drain_timeout_ms / 1000):
                    await self._dead_letters.flush()
            await publisher.aclose()
            await self._invalid.aclose()

    async def _serve(
        self, stop: Stop, raw_publisher: RawPublisher, rest: VenueRest, products: Sequence[str]
    ) -> None:
        settings = self.settings
        # `suppress` also takes it out of the group's exception group.
        with contextlib.suppress(_Ended):
            async with asyncio.TaskGroup() as group:
                self._healer = Healer(
                    rest,
                    group,
                    raw_publisher.has_room,
                    settings.resync_max_queue_ms / 1000,
                    settings.resync_max_trades,
                )
                self._group = group
                for part in _parts(products, settings):
                    await self._start_feed(part, raw_publisher)
                if settings.book_audit_period_ms and not self._orders:
                    auditor = Auditor(
                        rest,
                        self._all_products,
                        settings.book_audit_period_ms / 1000,
                        self._metrics.audited,
                        settings.book_audit_turn_ms / 1000,
                        self._metrics.suspected,
                    )
                    group.create_task(auditor.run(), name="audit")
                late = LateTrades(
                    rest,
                    self._all_products,
                    raw_publisher.has_room,
                    max_hours=settings.late_trades_max_hours,
                    restate_s=min(_RESTATE_S, settings.js_retention_minutes * 60 / 4),
                )
                group.create_task(late.run(), name="late")
                repairs = Repairs(self._broker, self._all_products, self._venue.name)
                group.create_task(repairs.run(), name="repairs")
                group.create_task(self._dead_letters.run(), name="dead_letters")
                group.create_task(raw_publisher.measure(_MEASURE_S), name="measure")
                group.create_task(self._beat(raw_publisher), name="pulse")
                group.create_task(self._check_health(), name="health")
                own = [spec for spec in log_specs(settings) if spec.log in (RAW_LOG, INVALID_LOG)]
                retention = RetentionWatch(self._broker, own, self._metrics.retention_cut)
                group.create_task(retention.run(), name="retention")
                group.create_task(self._statistics(), name="statistics")
                await stop.wait()
                # The group's tasks run for ever: this ends them, feeds and heals alike.
                raise _Ended

    def _on_refused(self, record: Record, error: RecordRefused) -> Record | None:
        """The log will never hold a record that was taken; what stands in its place."""
        now = now_us()
        self._unreadable.park(refusal_of(error), record.payload, now)
        key = key_of(record.subject)
        for streams in self._all_products():
            if (
                streams.product == key.product
                and streams.book is not None
                and key.channel == "book"
            ):
                streams.book.unbase(
                    RECORD_REFUSED, f"an update is not in the log: {error.reason}", now
                )
        return gap_instead(record)

    def _all_products(self) -> list[ProductStreams]:
        return [streams for feed in self.feeds for streams in feed.products.values()]

    def _circuits(self) -> dict[str, Circuit]:
        return {
            "venue": max(
                (feed.circuit for feed in self.feeds), key=_GRAVITY, default=Circuit.CLOSED
            ),
            "rest": self._breaker.state,
            "broker": self._broker_breaker.state,
        }

    @property
    def refused(self) -> int:
        """Records the broker's window had no room for."""
        return self._raw_publisher.refused if self._raw_publisher is not None else 0

    async def flushed(self) -> None:
        """Return once everything received so far is durable."""
        if self._raw_publisher is not None:
            await self._raw_publisher.flush(_FLUSH_S)

    async def set_products(self, wanted: Sequence[str]) -> dict[str, list[str]]:
        """Serve exactly `wanted` from now on; products that stay do not notice.

        Returns:
            What was `added`, `removed` and `left_out` (the venue does not serve it).

        Raises:
            VenueRefused: none of them can be subscribed; nothing was changed.
            BrokerUnavailable: where the new streams end is unknown; part may have been changed.
        """
        if self._raw_publisher is None or self._rest is None or self._group is None:
            raise VenueRefused("products", "the ingestor has not started yet")
        async with self._changing:
            good = await self._tradable(self._rest, wanted)
            served = {product for feed in self.feeds for product in feed.products}
            removed = sorted(served - set(good))
            added = [product for product in good if product not in served]
            for product in removed:
                await self._remove(product)
            for product in added:
                await self._add(product, self._raw_publisher)
            log.info("products_changed", added=added, removed=removed)
            left_out = [product for product in wanted if product not in good]
            return {"added": added, "removed": removed, "left_out": left_out}

    async def _add(self, product: str, raw_publisher: RawPublisher) -> None:
        for feed in self.feeds:
            if len(feed.products) < self.settings.products_per_connection:
                await feed.add(await self._streams(product, feed, raw_publisher))
                return
        await self._start_feed([product], raw_publisher)

    async def _remove(self, product: str) -> None:
        if self._healer is not None:
            self._healer.forget(product)
        for feed in list(self.feeds):
            if product not in feed.products:
                continue
            await feed.remove(product)
            if not feed.products:
                # The venue closes connections that subscribe nothing.
                self.feeds.remove(feed)
                self._tasks.pop(feed.name).cancel()

    async def _start_feed(self, products: Sequence[str], raw_publisher: RawPublisher) -> None:
        if self._group is None:
            return
        feed = await self._feed(f"{self._venue.name}-{self._made}", products, raw_publisher)
        self._made += 1
        self.feeds.append(feed)
        self._tasks[feed.name] = self._group.create_task(feed.run(), name=f"feed:{feed.name}")

    # ---- making the parts

    async def _feed(self, name: str, products: Sequence[str], raw_publisher: RawPublisher) -> Feed:
        settings = self.settings
        options = FeedOptions(
            settings.endpoints,
            settings.coinbase_channels,
            suspect_s=settings.heartbeat_suspect_ms / 1000,
            dead_s=settings.heartbeat_dead_ms / 1000,
            connect_timeout_s=settings.connect_timeout_ms / 1000,
            max_pause_s=settings.reconnect_max_ms / 1000,
            breaker_failures=settings.ws_breaker_failures,
            breaker_recovery_s=settings.ws_breaker_recovery_ms / 1000,
            compression=settings.ws_compression,
        )
        feed = Feed(name, self._venue, [], options, raw_publisher, self._unreadable, self._metrics)
        for product in products:
            await feed.add(await self._streams(product, feed, raw_publisher))
        return feed

    async def _streams(
        self, product: str, feed: Feed, raw_publisher: RawPublisher
    ) -> ProductStreams:
        """A product's streams, each going on where its stream ends in the log."""

        def ask(want: Want) -> None:
            if self._healer is not None:
                self._healer.want(streams, want, feed.resubscribe_book)

        writers: dict[str, tuple[RawStreamWriter, Sequencer, StreamStateTracker]] = {}
        for channel in self._channels:
            key = StreamKey(self._venue.name, channel, product)
            writer, heard = await self._writer(key, raw_publisher)
            if channel == "book":
                _continue_book(writer, by_order=self._orders)
            # A book's position is forced to increase and so says nothing of the venue's clock.
            held = None if channel == "book" else writer.seq
            rule = ORDERS_RULE if channel == "book" and self._orders else RULES[channel]
            sequencer = Sequencer(rule, held, heard)
            writers[channel] = writer, sequencer, StreamStateTracker(writer, now_us())
        trades, book, ticker = (writers.get(name) for name in ("trades", "book", "ticker"))
        metrics = self._metrics
        stream: BookStream | OrdersStream | None = None
        if book is not None and self._orders:
            stream = OrdersStream(*_stream(book), lambda: ask(Want.BOOK), metrics)
        elif book is not None:
            replica = BookReplica() if self.settings.book_audit_period_ms else None
            stream = BookStream(
                *_stream(book),
                lambda: ask(Want.BOOK),
                metrics,
                replica=replica,
                silence=self.settings.silence_rule,
            )
        streams = ProductStreams(
            product,
            trades and TradesStream(*_stream(trades), lambda: ask(Want.TRADES), metrics),
            stream,
            ticker and TickerStream(*_stream(ticker), lambda: ask(Want.TICKER), metrics),
            ask,
            self._unreadable.park,
        )
        return streams

    async def _writer(
        self, key: StreamKey, raw_publisher: RawPublisher
    ) -> tuple[RawStreamWriter, int]:
        """The stream's writer, and when its last record was received (µs, 0 if none)."""
        line = self.settings.line
        last = await self._broker.last(raw_subject(key))
        if last is None:
            epoch = await self._broker.log_epoch(RAW_LOG)
            return RawStreamWriter(key, line, raw_publisher.offer, epoch=epoch), 0
        epoch, seq, sub = last.position
        try:
            record = decode_raw(last.payload)
        except UNREADABLE as error:
            # Somebody else's. Where it stands is known, and what it hides shows as a break there.
            log.error("raw_log_end_unreadable", stream=str(key), seq=seq, reason=str(error))
            writer = RawStreamWriter(
                key, line, raw_publisher.offer, epoch=epoch, seq=seq or None, sub=sub
            )
            return writer, 0
        gaps, told = await open_gaps(self._broker, record)
        writer = RawStreamWriter(
            key,
            line,
            raw_publisher.offer,
            epoch=epoch,
            seq=seq or None,
            sub=sub,
            open_gaps=gaps,
            open_at=told,
        )
        return writer, record.ts_recv

    async def _tradable(self, rest: VenueRest, wanted: Sequence[str]) -> list[str]:
        """Those of `wanted` that the venue will serve; all of them when it does not answer."""
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

    async def _while_unavailable(self, stop: Stop) -> None:
        """Prepare the logs, waiting for the broker as long as it takes."""
        pauses = Backoff(0.1, 2.0, least=0.0, immediate=True)
        while not stop.requested:
            try:
                await self._broker.ensure(log_specs(self.settings))
                return
            except BrokerUnavailable as error:
                self._health.failed("broker", str(error))
                await asyncio.sleep(pauses.next_delay())

    # ---- what runs beside the feeds

    async def _beat(self, raw_publisher: RawPublisher) -> None:
        settings = self.settings
        suspect_us = settings.heartbeat_suspect_ms * 1000
        # Not the host's name: with every new pod a broker would keep one subject more. Whoever
        # runs several lines of the same products names them.
        name = settings.ingestor_line or settings.coinbase_products[0]
        pulse = Pulse(self._venue.name, name, settings.line, raw_publisher.offer, suspect_us)
        while True:
            if self._log_epoch is not None:
                pulse.beat(self._all_products(), self._log_epoch, now_us())
            await asyncio.sleep(settings.pulse_period_ms / 1000)

    async def _check_health(self) -> None:
        while True:
            try:
                async with asyncio.timeout(_PING_TIMEOUT_S):
                    # First what can be asked of a broker that stores nothing.
                    self._check_log(await self._broker.log_epoch(RAW_LOG))
                    await self._broker.ping()
            except (BrokerError, TimeoutError) as error:
                self._health.failed("broker", str(error) or "no answer")
            else:
                self._health.passed("broker")
            self._health.tell_hazards("broker", self._broker.hazards())
            self._metrics.unconfirmed_seconds.set(self._broker.storing().stalled_s)
            waiting = [
                f"{feed.name} is {feed.state.value}" for feed in self.feeds if not feed.connected
            ]
            if waiting or not self.feeds:
                self._health.failed("feed", "; ".join(waiting) or "no feed")
            else:
                self._health.passed("feed")
            await asyncio.sleep(_HEALTH_S)

    def _check_log(self, epoch: int) -> None:
        before, self._log_epoch = self._log_epoch, epoch
        if before is None or epoch == before:
            return
        log.error("log_lost", before=before, now=epoch)
        now = now_us()
        for feed in self.feeds:
            for streams in feed.products.values():
                streams.log_lost(epoch, now)

    async def _statistics(self) -> None:
        before: Mapping[str, int] = {}
        while True:
            await asyncio.sleep(_STATISTICS_S)
            for feed in self.feeds:
                stats = feed.stats()
                new = stats.messages - before.get(feed.name, 0)
                log.info(
                    "feed_statistics",
                    feed=feed.name,
                    state=feed.state.value,
                    messages_per_s=round(new / _STATISTICS_S, 1),
                    queued=stats.queued,
                    reconnects=stats.reconnects,
                    last_message_age_s=stats.last_message_age_s,
                    refused_by_broker=self.refused,
                    heals=self._healer.under_way if self._healer else 0,
                )
            before = {feed.name: feed.messages for feed in self.feeds}


class _Ended(Exception):
    """Leaves the task group when the service is told to stop."""


def _continue_book(writer: RawStreamWriter, *, by_order: bool) -> None:
    """Begin a new epoch where the book's last record was numbered by the other source.

    A time in µs and a venue sequence cannot be confused: they are a factor of thousands apart.
    """
    if writer.seq is not None and (writer.seq < _LEAST_TIME_US) is not by_order:
        writer.restart(now_us())


def _stream(
    parts: tuple[RawStreamWriter, Sequencer, StreamStateTracker],
) -> tuple[RawStreamWriter, StreamStateTracker, Sequencer]:
    writer, sequencer, state = parts
    return writer, state, sequencer


def _parts(products: Sequence[str], settings: Settings) -> Iterator[Sequence[str]]:
    size = settings.products_per_connection
    for start in range(0, len(products), size):
        yield products[start : start + size]
