"""What runs beside the feeds: readiness, the loss of a log, pulses, and a line of statistics."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from services.common.clock import now_us
from services.common.errors import BrokerUnavailable
from services.common.observability.health import Health
from services.common.runtime import patiently
from services.common.stream import Broker
from services.common.subjects import RAW_LOG, pulse_key, raw_subject
from services.ingestor.cb_ws import Feed
from services.ingestor.metrics import Metrics
from services.ingestor.publish.raw_publisher import RawPublisher
from services.ingestor.repair.healer import Healer
from services.ingestor.settings import Settings
from services.ingestor.streams import ProductStreams
from services.ingestor.streams.pulse import Pulse
from services.ingestor.venues.coinbase import CoinbaseFeed

log = structlog.get_logger(__name__)

_STATISTICS_S = 30.0
_HEALTH_S = 1.0
_PING_TIMEOUT_S = 2.0


def products_of(feeds: Iterable[Feed]) -> list[ProductStreams]:
    """The streams of all products that `feeds` serve now."""
    return [streams for feed in feeds for streams in feed.products.values()]


@dataclass(eq=False)
class Monitor:
    """See the module."""

    _settings: Settings
    _broker: Broker
    _metrics: Metrics
    _health: Health
    _feeds: Sequence[Feed]  # those that run; the list may change
    _log_epoch: int  # the raw log's, as it was when the publisher was opened

    async def run(self, raw_publisher: RawPublisher, healer: Healer) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._check_health(), name="health")
            tasks.create_task(self._statistics(raw_publisher, healer), name="statistics")

    async def beat(self, raw_publisher: RawPublisher) -> None:
        """Tell the log which products are heard of, until cancelled."""
        settings = self._settings
        suspect_us = settings.heartbeat_suspect_ms * 1000
        # Not the host's name: with every new pod a broker would keep one subject more.
        name = settings.ingestor_line or settings.coinbase_products[0]
        subject = raw_subject(pulse_key(CoinbaseFeed.name, name))
        last = await patiently(
            lambda: self._broker.last(subject),
            BrokerUnavailable,
            lambda error: self._health.failed("broker", error.reason),
        )
        pulse = Pulse(
            CoinbaseFeed.name,
            name,
            settings.line,
            raw_publisher.offer,
            suspect_us,
            after=0 if last is None else last.position.seq,
        )
        while True:
            pulse.beat(products_of(self._feeds), self._log_epoch, now_us())
            await asyncio.sleep(settings.pulse_period_ms / 1000)

    async def _check_health(self) -> None:
        while True:
            async with self._health.asking("broker", _PING_TIMEOUT_S):
                # First what can be asked of a broker that stores nothing.
                self._log_is(await self._broker.log_epoch(RAW_LOG))
                await self._broker.ping()
            self._health.tell_hazards("broker", self._broker.hazards())
            self._metrics.unconfirmed_seconds.set(self._broker.storing().stalled_s)
            waiting = [
                f"{feed.name} is {feed.state.value}" for feed in self._feeds if not feed.connected
            ]
            self._health.judge("feed", waiting if self._feeds else ["no feed"])
            await asyncio.sleep(_HEALTH_S)

    def _log_is(self, epoch: int) -> None:
        if epoch == self._log_epoch:
            return
        log.error("log_lost", before=self._log_epoch, now=epoch)
        self._log_epoch = epoch
        for streams in products_of(self._feeds):
            streams.log_lost(epoch, now_us())

    async def _statistics(self, raw_publisher: RawPublisher, healer: Healer) -> None:
        before: Mapping[str, int] = {}
        while True:
            await asyncio.sleep(_STATISTICS_S)
            for feed in self._feeds:
                new = feed.messages - before.get(feed.name, 0)
                log.info(
                    "feed_statistics",
                    feed=feed.name,
                    state=feed.state.value,
                    messages_per_s=round(new / _STATISTICS_S, 1),
                    queued=feed.queued,
                    reconnects=feed.reconnects,
                    last_message_age_s=feed.last_message_age_s,
                    refused_by_broker=raw_publisher.refused,
                    heals=healer.under_way,
                )
            before = {feed.name: feed.messages for feed in self._feeds}
