"""The ingestor put together: what is started, in which order, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from itertools import batched
from operator import attrgetter

import structlog
from prometheus_client import CollectorRegistry

from services.common.clock import now_us
from services.common.errors import (
    BrokerClosed,
    BrokerFailed,
    BrokerUnavailable,
    RecordRefused,
    VenueRefused,
)
from services.common.lines.keeper import LeaseLost, LineKeeper, RawBeats
from services.common.lines.lease import Role
from services.common.observability.health import Health
from services.common.resilience import Backoff, Circuit, CircuitBreaker
from services.common.runtime import Stop, patiently
from services.common.stream import Broker, Record
from services.common.stream.dead_letters import DeadLetters, InvalidLog
from services.common.stream.retention import RetentionWatch
from services.common.stream.specs import log_specs
from services.common.subjects import INVALID_LOG, RAW_LOG, key_of, pulse_key
from services.ingestor.cb_rest import CoinbaseRest
from services.ingestor.cb_ws import Feed
from services.ingestor.feed_metrics import FeedCollector
from services.ingestor.metrics import Metrics
from services.ingestor.monitor import Monitor, products_of
from services.ingestor.publish.raw_publisher import (
    MAX_WAITING,
    RawPublisher,
    UnreadableFrames,
    refusal_of,
)
from services.ingestor.repair.book_audit import Auditor
from services.ingestor.repair.healer import Healer
from services.ingestor.repair.late_trades import LateTrades
from services.ingestor.repair.repair_queue import Repairs
from services.ingestor.settings import Settings
from services.ingestor.streams import ProductStreams
from services.ingestor.streams.predecessor import predecessor
from services.ingestor.streams.raw_writer import RECORD_REFUSED, gap_instead
from services.ingestor.venues.base import VenueRest
from services.ingestor.venues.coinbase import CoinbaseFeed
from services.ingestor.wiring import FeedFactory, tradable

log = structlog.get_logger(__name__)

_MEASURE_S = 1.0
_FLUSH_S = 60.0
# Open gaps are written again so often, so that a restart finds them.
_RESTATE_S = 600.0
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
        self._invalid = InvalidLog(broker)
        self._dead_letters = DeadLetters(self._invalid, keep=MAX_WAITING)
        self._unreadable = UnreadableFrames(self._dead_letters, metrics)
        self._raw_publisher: RawPublisher | None = None
        self._keeper: LineKeeper | None = None  # None: it is alone, and writes
        self._healer: Healer | None = None
        self._factory: FeedFactory | None = None
        self._rest: VenueRest | None = None
        self._group: asyncio.TaskGroup | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._made = 0
        self._changing = asyncio.Lock()
        self._breaker = CircuitBreaker(
            settings.rest_breaker_failures, settings.rest_breaker_recovery_ms / 1000
        )
        self._broker_breaker = CircuitBreaker(
            settings.broker_breaker_refusals, settings.broker_breaker_recovery_ms / 1000
        )
        self._collector = FeedCollector(
            self.feeds, self._circuits, broker.storing, lambda: self.role is Role.ACTIVE
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
        while await stop.allows(self._prepare_logs()) and await self._lost_lease(stop):
            # Another line writes now: from here on this one listens, as after a start.
            self.feeds.clear()
            self._tasks.clear()

    async def _lost_lease(self, stop: Stop) -> bool:
        """Serve until `stop`, or until another line takes over: then True."""
        settings = self.settings
        publisher = await self._broker.publisher(
            max_records=settings.broker_buffer_records,
            max_bytes=settings.broker_buffer_bytes,
            on_refused=self._on_refused,
            predecessor=None if settings.ingestor_pair is None else predecessor,
            replaceable=settings.ingestor_pair is not None,
        )
        epoch = await self._broker.log_epoch(RAW_LOG)
        keeper = self._keeper = self._new_keeper()
        monitor = Monitor(settings, self._broker, self._metrics, self._health, self.feeds, epoch)
        raw_publisher = self._raw_publisher = RawPublisher(
            publisher,
            self._metrics,
            self._unreadable,
            max_records=settings.broker_buffer_records,
            max_bytes=settings.broker_buffer_bytes,
            breaker=self._broker_breaker,
            may_write=None if keeper is None else keeper.may_write,
        )
        self._metrics.registry.register(self._collector)
        lost = False
        try:
            async with (
                CoinbaseRest(settings.coinbase_rest_url, breaker=self._breaker) as rest,
                keeper or contextlib.nullcontext(),
            ):
                self._rest = rest
                try:
                    await self._serve(stop, raw_publisher, rest, monitor)
                except* LeaseLost:
                    lost = True
                finally:
                    await self._end_intake(raw_publisher, keeper, lost=lost)
        finally:
            self._metrics.registry.unregister(self._collector)
            with contextlib.suppress(TimeoutError, BrokerClosed, BrokerFailed):
                async with asyncio.timeout(settings.drain_timeout_ms / 1000):
                    await self._dead_letters.flush()
            await publisher.aclose()
            await self._invalid.aclose()
        return lost

    async def _end_intake(
        self, raw_publisher: RawPublisher, keeper: LineKeeper | None, *, lost: bool
    ) -> None:
        """Make what was taken durable, and leave the rest to another line where there is one."""
        if lost:
            # What is not stored yet is the other line's to write.
            return
        if keeper is None:
            for feed in self.feeds:
                feed.stopped("ingestor stopped")
        abandoned = await raw_publisher.flush(self.settings.drain_timeout_ms / 1000)
        if abandoned:
            log.error("records_abandoned", count=abandoned)
        elif keeper is not None:
            await keeper.release()

    def _new_keeper(self) -> LineKeeper | None:
        settings = self.settings
        if settings.ingestor_pair is None:
            return None
        beats = RawBeats(pulse_key(CoinbaseFeed.name, f"line-{settings.ingestor_pair}"))
        takeover_s = settings.ingestor_takeover_ms / 1000
        return LineKeeper(self._broker, beats, settings.line, takeover_s)

    async def _serve(
        self, stop: Stop, raw_publisher: RawPublisher, rest: VenueRest, monitor: Monitor
    ) -> None:
        settings = self.settings
        products = await tradable(rest, settings.coinbase_products)
        # `suppress` also takes it out of the group's exception group.
        with contextlib.suppress(_Ended):
            async with asyncio.TaskGroup() as group:
                healer = self._healer = Healer(
                    rest,
                    group,
                    raw_publisher.has_room,
                    settings.resync_max_queue_ms / 1000,
                    settings.resync_max_trades,
                )
                self._group = group
                self._factory = FeedFactory(
                    settings,
                    self._broker,
                    self._metrics,
                    raw_publisher=raw_publisher,
                    unreadable=self._unreadable,
                    want=healer.want,
                )
                group.create_task(monitor.run(raw_publisher, healer), name="monitor")
                for part in batched(products, settings.products_per_connection):
                    await self._start_feed(self._factory, part)
                if self._keeper is not None:
                    await self._stand_by(self._keeper, stop, group)
                if settings.book_audit_period_ms and not settings.by_order:
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
                repairs = Repairs(self._broker, self._all_products, CoinbaseFeed.name)
                group.create_task(repairs.run(), name="repairs")
                group.create_task(self._dead_letters.run(), name="dead_letters")
                group.create_task(raw_publisher.measure(_MEASURE_S), name="measure")
                group.create_task(monitor.beat(raw_publisher), name="pulse")
                own = [spec for spec in log_specs(settings) if spec.log in (RAW_LOG, INVALID_LOG)]
                retention = RetentionWatch(self._broker, own, self._metrics.retention_cut)
                group.create_task(retention.run(), name="retention")
                await stop.wait()
                # The group's tasks run for ever: this ends them, feeds and heals alike.
                raise _Ended

    async def _stand_by(self, keeper: LineKeeper, stop: Stop, group: asyncio.TaskGroup) -> None:
        """Listen until this line writes; then put streams where the others ended in the log.

        Raises:
            _Ended: it was told to stop before.
        """
        group.create_task(keeper.run(), name="lease")
        if not await stop.allows(keeper.active()):
            raise _Ended
        if self._factory is None:
            return
        factory = self._factory
        async with self._changing:
            for feed in self.feeds:
                streams = [await factory.product_streams(each, feed) for each in feed.products]
                await feed.take_over(streams)
        log.info("line_writes", line=self.settings.line, products=len(self._all_products()))

    def _on_refused(self, record: Record, error: RecordRefused) -> Record | None:
        """The log will never hold a record that was taken; what stands in its place."""
        now = now_us()
        self._unreadable.park(refusal_of(error), record.payload, now)
        key = key_of(record.subject)
        for streams in self._all_products():
            if streams.book is not None and streams.book.writer.key == key:
                text = f"an update is not in the log: {error.reason}"
                streams.book.unbase(RECORD_REFUSED, text, now)
        return gap_instead(record)

    def _all_products(self) -> list[ProductStreams]:
        return products_of(self.feeds)

    def _circuits(self) -> dict[str, Circuit]:
        # The worst of the feeds' is shown.
        venue = max((feed.circuit for feed in self.feeds), key=_GRAVITY, default=Circuit.CLOSED)
        return {
            "venue": venue,
            "rest": self._breaker.state,
            "broker": self._broker_breaker.state,
        }

    @property
    def role(self) -> Role:
        """Whether it writes, or stands by for another ingestor of the same products."""
        return Role.ACTIVE if self._keeper is None else self._keeper.role

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
        if self._factory is None or self._rest is None:
            raise VenueRefused("products", "the ingestor has not started yet")
        if self.role is not Role.ACTIVE:
            raise VenueRefused("products", "this line stands by; ask the one that writes")
        async with self._changing:
            good = await tradable(self._rest, wanted)
            served = {product for feed in self.feeds for product in feed.products}
            removed = sorted(served - set(good))
            added = [product for product in good if product not in served]
            for product in removed:
                await self._remove(product)
            for product in added:
                await self._add(self._factory, product)
            log.info("products_changed", added=added, removed=removed)
            left_out = [product for product in wanted if product not in good]
            return {"added": added, "removed": removed, "left_out": left_out}

    async def _add(self, factory: FeedFactory, product: str) -> None:
        for feed in self.feeds:
            if len(feed.products) < self.settings.products_per_connection:
                await feed.add(await factory.product_streams(product, feed))
                return
        await self._start_feed(factory, [product])

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

    async def _start_feed(self, factory: FeedFactory, products: Sequence[str]) -> None:
        if self._group is None:
            return
        waiting = self.role is not Role.ACTIVE
        name = f"{CoinbaseFeed.name}-{self._made}"
        feed = await factory.feed(name, products, waiting=waiting)
        self._made += 1
        self.feeds.append(feed)
        self._tasks[feed.name] = self._group.create_task(feed.run(), name=f"feed:{feed.name}")

    async def _prepare_logs(self) -> None:
        """Wait for the broker as long as it takes."""
        await patiently(
            lambda: self._broker.ensure(log_specs(self.settings)),
            BrokerUnavailable,
            lambda error: self._health.failed("broker", str(error)),
            Backoff(0.1, 2.0, least=0.0, immediate=True),
        )


class _Ended(Exception):
    """Leaves the task group when the service is told to stop."""
