"""Whether logs keep records for as long as the settings say, or lose them earlier to their size.

A log that reaches its bound drops its oldest records. That stops nobody and is seen by nobody until
somebody who was away for less than the retention finds that his place is gone; so it is told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from services.common.errors import BrokerUnavailable
from services.common.stream.broker import Broker
from services.common.stream.records import Held, LogSpec

if TYPE_CHECKING:
    from prometheus_client import Gauge

log = structlog.get_logger(__name__)

_LOOK_S = 30.0

# A log drops whole blocks, so one at its bound is somewhat below it.
_AT_BOUND = 0.9
# An oldest record that is this much of the retention old has been kept for long enough.
_LONG_ENOUGH = 0.95


def is_cut(held: Held, retention_s: float) -> bool:
    """Whether the log's oldest records go before their time. Pure."""
    at_bound = held.max_bytes > 0 and held.size >= _AT_BOUND * held.max_bytes
    return at_bound and held.oldest_s < _LONG_ENOUGH * retention_s


@dataclass(eq=False)
class RetentionWatch:
    """Looks at some logs and says when one begins to be cut, and when it is whole again."""

    _broker: Broker  # open
    _specs: Sequence[LogSpec]  # of the logs
    # Set to 1 or 0 by log; see `services.common.observability.metrics.retention_gauge`.
    _gauge: Gauge
    _cut: set[str] = field(default_factory=set)

    async def run(self) -> None:
        """Look now and then, until cancelled."""
        while True:
            with suppress(BrokerUnavailable):
                # The service's check of the broker says that.
                await self.look()
            await asyncio.sleep(_LOOK_S)

    async def look(self) -> None:
        """Raises BrokerUnavailable when the broker does not answer."""
        for spec in self._specs:
            held = await self._broker.held(spec.log)
            if held is not None:
                self._judge(spec, held)

    def _judge(self, spec: LogSpec, held: Held) -> None:
        cut = is_cut(held, spec.retention_s)
        self._gauge.labels(spec.log).set(cut)
        if cut and spec.log not in self._cut:
            self._cut.add(spec.log)
            log.warning(
                "retention_cut",
                log=spec.log,
                holds_minutes=round(held.oldest_s / 60, 1),
                wanted_minutes=round(spec.retention_s / 60, 1),
                max_bytes=held.max_bytes,
                action="raise JS_*_MAX_BYTES and the disk, or lower JS_RETENTION_MINUTES",
            )
        elif not cut and spec.log in self._cut:
            self._cut.discard(spec.log)
            log.info("retention_whole_again", log=spec.log)
