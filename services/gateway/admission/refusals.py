"""What is refused of HTTP connections: all of it counted, some of it told."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from services.gateway.metrics import METRICS
from services.gateway.ratelimit import TokenBucket

log = structlog.get_logger(__name__)

# So many lines at once, and one more each so many seconds.
_LOG_BURST, _LOG_S = 10, 10.0


class Refusals:
    """Counts what is refused; tells of some of it, however much there is."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lines = TokenBucket(1 / _LOG_S, _LOG_BURST, clock())
        self._untold = 0

    def count(self, reason: str, address: str, detail: str = "") -> None:
        METRICS.http_refused.labels(reason).inc()
        if self._lines.take(self._clock()) > 0:
            self._untold += 1
            return
        log.info(
            "http_refused",
            reason=reason,
            address=address,
            # Of llhttp or of this module: never the client's own words.
            detail=detail[:200],
            untold=self._untold,
        )
        self._untold = 0
